"""scikit-learn's checks of an estimator of images: it runs none unasked of one that takes no 2-d array of numbers."""

from __future__ import annotations

from sklearn.utils import estimator_checks, get_tags

# Those that give it no data; the others give numbers. Versions of scikit-learn differ in which there are.
WITHOUT_DATA = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
)


def check_without_data(estimator) -> int:
    """Run scikit-learn's checks without data over an estimator of images, and return their number."""
    tags = get_tags(estimator)
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.string
    checks = [getattr(estimator_checks, name) for name in WITHOUT_DATA if hasattr(estimator_checks, name)]
    for check in checks:
        check(type(estimator).__name__, estimator)
    return len(checks)
