"""What griffe misreads in our docstrings: parameters described together, and the lines of Raises."""

from __future__ import annotations

from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Correct parsed docstrings.

    ``scale, steps : as in TIMClassifier`` gives each parameter its own default, where griffe takes that of the first.
    ``ValueError : for NaN`` is an exception and when it is raised, where griffe takes the line for a type.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Correct the docstrings of a package that is loaded."""
        self._correct(pkg)

    def _correct(self, of: griffe.Object) -> None:
        for member in of.members.values():
            if member.is_alias:
                continue
            if isinstance(member, griffe.Class | griffe.Function | griffe.Attribute) and member.docstring:
                for section in member.docstring.parsed:
                    if isinstance(section, griffe.DocstringSectionParameters):
                        _correct_parameters(section, member)
                    elif isinstance(section, griffe.DocstringSectionRaises):
                        _correct_raises(section)
            if isinstance(member, griffe.Module | griffe.Class):
                self._correct(member)


def _correct_parameters(section: griffe.DocstringSectionParameters, of: griffe.Object) -> None:
    for described in section.value:
        if not isinstance(of, griffe.Class | griffe.Function) or described.name not in of.parameters:
            continue
        parameter = of.parameters[described.name]
        described.value = str(parameter.default) if parameter.default is not None else None
        if not isinstance(described.annotation, str):  # of the signature
            described.annotation = parameter.annotation


def _correct_raises(section: griffe.DocstringSectionRaises) -> None:
    for raised in section.value:
        name, colon, when = str(raised.annotation).partition(" : ")
        if colon:
            raised.annotation = name
            raised.description = f"{when} {raised.description}".strip()
