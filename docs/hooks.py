"""What the site is built of besides its pages: references made from the code, measured tables, formulas as MathML."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from drawings import DRAWINGS  # noqa: E402

# The rooms of the library in the order in which a reader needs them, and what each is for.
ROOMS = {
    "registry": "Registries of classes, in one file",
    "encoders": "Encoders: images, texts and sounds to embeddings",
    "classifiers": "Few-shot classifiers",
    "openset": "None of these: rejection of unknown examples",
    "calibration": "Calibrated probabilities",
    "episodes": "Episodes",
    "benchmark": "Benchmarks",
    "finetuning": "Fine-tuning",
    "training": "Training an encoder",
    "domain_adaptation": "Domain adaptation",
    "datasets": "Data sets",
    "media": "What an example may be",
    "vectors": "Embeddings: distances and search",
    "detection": "Objects in larger images",
    "runtime": "Bundles, without torch",
    "errors": "Errors",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    pages = {f"reference/python/{room}.md": _room(room) for room in ROOMS if _names(room)}
    pages["reference/rest.md"] = _rest()
    pages["reference/measured.md"] = _measured_page()
    pages |= {f"assets/{name}": drawing() for name, drawing in DRAWINGS.items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _measured_page() -> str:
    """The benchmarks' own page, whose links lead to files that are not part of the site."""
    text = (ROOT / "benchmarks/README.md").read_text()
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put measured tables where a page says ``<!-- measured: NAME -->``."""
    return re.sub(r"<!-- measured: (\w+) -->", lambda found: MEASURED[found[1]](), markdown)


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Replace formulas, which arithmatex has marked, by MathML: it needs no script."""

    def formula(found: re.Match[str]) -> str:
        text = html.unescape(found[2])
        return convert(text[2:-2].strip(), display="block" if text.startswith("\\[") else "inline")

    content = content.replace("<code>Sentinel.UNSET</code>", "")  # of an option without a default
    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', formula, content, flags=re.DOTALL)


def _names(room: str) -> list[str]:
    """The public names that a room gives to the package's own list."""
    door = (ROOT / "fewshot/__init__.pyi").read_text()
    names = re.findall(rf"^from \.{room} import (\w+) as", door, re.MULTILINE)
    own = ROOT / "fewshot" / room / "__init__.pyi"
    extra = re.findall(r"^from \.\w+ import (\w+) as", own.read_text(), re.MULTILINE) if own.exists() else []
    return names + [name for name in extra if name in _BESIDES.get(room, ()) and name not in names]


# Public names that are imported from a room rather than from the package.
_BESIDES = {
    "registry": (
        "Diagnosis",
        "ErasureReport",
        "Evaluation",
        "Failure",
        "MultiLabelEvaluation",
        "StoredExample",
        "repair_registry",
    ),
    "openset": ("Background", "Center", "KnownClasses", "Threshold", "UnknownScore", "estimate_threshold"),
    "calibration": ("CalibrationParams", "fit_calibration", "measure_reliability", "shipped_calibration"),
    "runtime": ("Recognizer", "export_bundle"),
    "benchmark": ("run_openset_benchmark", "run_suite"),
    "detection": ("Detection",),
}


_REGISTRY = (
    "add add_folder add_labelled predict predict_group predict_groups evaluate evaluate_labels diagnose classes "
    "examples list_examples image remove remove_example rename move_example merge forget describe descriptions "
    "forget_description list_negatives remove_negative rejection classifier set_classifier compare_classifiers "
    "compare_encoding reindex export import_examples backup check info encoder modality multi_label path close"
).split()
_CLASSIFIER = (
    "fit partial_fit forget predict predict_proba scores scores_and_probabilities rank score episode_scores "
    "episode_probabilities _learn _extend _scores"
).split()
_ENCODER = ["dim", "fingerprint", "encode", "encode_valid"]
# What a reader uses of a class, in this order, inherited or not; of other classes it is all that they define.
_MEMBERS: dict[str, list[str]] = {
    "ClassRegistry": _REGISTRY,
    "FewShotClassifier": _CLASSIFIER,
    "MultiLabelClassifier": ["fit", "predict", "predict_proba"],
    "PrototypeClassifier": ["prototypes_"],
    "WhitenedPrototypeClassifier": ["prototypes_"],
    "ClipEncoder": [*_ENCODER, "encode_texts"],
    "EmbeddingCache": [*_ENCODER, "encode_texts"],
    "Detector": ["detect"],
    "Recipe": [],
    "Background": ["of"],
    "Center": ["of"],
    "KnownClasses": ["of"],
}
_FIRST = ("ClassRegistry", "FewShotClassifier", "Recognizer", "Detector", "Encoder", "load_encoder")
_PREFACES = {
    "classifiers": "What all of them can do is listed once, at [`FewShotClassifier`]"
    "(#fewshot.classifiers.FewShotClassifier). When to take which: [Methods](../methods.md).",
}


def _room(room: str) -> str:
    parts = [f"# {ROOMS[room]}", "", _PREFACES.get(room, ""), ""]
    for name in sorted(_names(room), key=lambda name: name not in _FIRST):
        parts += [f"::: fewshot.{room}.{name}", ""]
        members = _MEMBERS.get(name)
        if members is None and room == "encoders" and name.endswith("Encoder"):
            members = _ENCODER
        elif members is None and room == "classifiers":
            members = []
        if members:
            parts[-1:] = ["    options:", "      inherited_members: true", f"      members: {json.dumps(members)}", ""]
        elif members is not None:
            parts[-1:] = ["    options:", "      members: false", ""]
    return "\n".join(parts)


def _rest() -> str:
    """The REST interface's reference, from its OpenAPI document."""
    import tempfile

    from fewshot.service import create_app

    with tempfile.TemporaryDirectory() as folder:
        document = create_app(folder).openapi()
    parts = [
        "# REST interface",
        "",
        "Served by `fewshot serve`; the same as a document for generated clients at `/openapi.json`. Every error is an "
        "`application/problem+json` whose `detail` says what to do.",
        "",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += [f"## `{method.upper()} {path}`", "", operation.get("description") or operation["summary"], ""]
            if rows := [_parameter(p) for p in operation.get("parameters", ())]:
                parts += ["| parameter | in | type | |", "|---|---|---|---|", *rows, ""]
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                parts += [f"Body, `{media}`:", "", *_fields(content.get("schema", {}), document), ""]
            for status, answer in operation["responses"].items():
                schema = answer.get("content", {}).get("application/json", {}).get("schema")
                if schema and status.startswith("2"):
                    parts += [f"Response {status}:", "", *_fields(schema, document), ""]
    return "\n".join(parts)


def _parameter(parameter: dict[str, Any]) -> str:
    what = _cell(parameter.get("description", ""))
    return f"| `{parameter['name']}` | {parameter['in']} | {_type(parameter['schema'])} | {what} |"


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    schema = _resolved(schema, document)
    if "properties" not in schema:
        return [f"{_type(schema)}. {schema.get('description', '')}".strip()]
    required = schema.get("required", ())
    rows = [
        f"| `{name}`{'' if name in required else ' (optional)'} | {_type(_resolved(value, document))} "
        f"| {_cell(value.get('description', ''))} |"
        for name, value in schema["properties"].items()
    ]
    return ["| field | type | |", "|---|---|---|", *rows]


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("title", kind) if kind == "object" else kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    return found


def _methods() -> str:
    """Accuracy of every method, of one encoder a part of the table, as ``benchmarks/tables.py`` measured them."""
    rows = _result("tables")["rows"]
    columns = [
        (task, encoder, shots)
        for task, encoder in (
            ("Tiny ImageNet, 5-way", "mobilenetv2"),
            ("Omniglot, 20-way within an alphabet", "pocket"),
        )
        for shots in (1, 5)
    ]
    found = {(row["task"], row["encoder"], row["shots"], row["method"]): row for row in rows}
    head = "| method | " + " | ".join(
        f"{task}, {encoder}, {shots} shot{'s'[: shots > 1]}" for task, encoder, shots in columns
    )
    parts = [head + " |", "|---|" + "---|" * len(columns)]
    for method in dict.fromkeys(sorted((row["method"] for row in rows), key=lambda one: (one in _TRANSDUCTIVE, one))):
        cells = [found.get((*column, method)) for column in columns]
        texts = ["" if row is None else f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}" for row in cells]
        parts.append(f"| {method}{' (transductive)' * (method in _TRANSDUCTIVE)} | " + " | ".join(texts) + " |")
    return "\n".join(parts)


def _encoders() -> str:
    """Accuracy of encoders under whitened prototypes."""
    rows = _result("heads")["rows"]
    found = {(r["encoder"], r["data"], r["ways"], r["shots"]): r["accuracy"] for r in rows if r["method"] == "whitened"}
    parts = ["| encoder | data | ways | 1 | 2 | 5 | 10 examples |", "|---|---|---|---|---|---|---|"]
    for encoder, data, ways in dict.fromkeys(key[:3] for key in found):
        cells = [f"{100 * found[encoder, data, ways, shots]:.1f}" for shots in (1, 2, 5, 10)]
        parts.append(f"| {encoder} | {data} | {ways} | " + " | ".join(cells) + " |")
    return "\n".join(parts)


_TRANSDUCTIVE = {
    row["method"]
    for row in json.loads((ROOT / "benchmarks/results/tables.json").read_text())["rows"]
    if row["transductive"]
}
MEASURED = {"methods": _methods, "encoders": _encoders}
