"""How the crops that a registry holds were cut out of their images."""

from __future__ import annotations

from fewshot.registry.store import RegistryStore

_PADDING = "crop_padding"


class CropSettings:
    """The part of ``ClassRegistry`` that knows of boxes."""

    _store: RegistryStore

    @property
    def crop_padding(self) -> float | None:
        """The share of a box's longer side added around crops, see ``fewshot.detection``; None where there are none."""
        stored = self._store.meta().get(_PADDING)
        return None if stored is None else float(stored)

    def set_crop_padding(self, padding: float) -> None:
        """Remember how crops are cut, before the first is added.

        Raises
        ------
        ValueError : if the registry holds crops of another padding, or keeps paths only, for a crop has none.
        """
        held = self.crop_padding
        path = self._store.path
        if not self._store.meta().get("keep_images", 1):
            raise ValueError(
                f"{path} keeps the paths of its images only, and a crop is no file: make a registry that keeps images"
            )
        if held is not None and held != padding and not self._store.is_empty():
            raise ValueError(
                f"{path} holds crops with a padding of {held:g}, not {padding:g}; they would not be alike. Leave the "
                "padding out, or make a new registry"
            )
        if held != padding:
            with self._store.write(append=True):
                self._store.set_meta(crop_padding=repr(padding))
