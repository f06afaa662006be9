"""Types and defaults of parameters that a docstring describes together, as ``scale, steps : as in TIMClassifier``."""

from __future__ import annotations

from typing import Any

import griffe


class ParameterDefaults(griffe.Extension):
    """Take each parameter's default from the signature: griffe gives all of a group those of its first."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Correct the docstrings of a package that is loaded."""
        self._correct(pkg)

    def _correct(self, of: griffe.Object) -> None:
        for member in of.members.values():
            if member.is_alias:
                continue
            if isinstance(member, griffe.Class | griffe.Function) and member.docstring:
                self._correct_docstring(member)
            if isinstance(member, griffe.Module | griffe.Class):
                self._correct(member)

    def _correct_docstring(self, of: griffe.Class | griffe.Function) -> None:
        assert of.docstring
        for section in of.docstring.parsed:
            if not isinstance(section, griffe.DocstringSectionParameters):
                continue
            for described in section.value:
                if described.name not in of.parameters:
                    continue
                parameter = of.parameters[described.name]
                described.value = str(parameter.default) if parameter.default is not None else None
                if not isinstance(described.annotation, str):  # of the signature
                    described.annotation = parameter.annotation
