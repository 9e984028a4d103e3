"""Bundles: the same parts give the same digest, and nothing that was touched loads."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from moderation import bundle_files as files
from moderation.bundle import Bundle, Part, Parts, build, store, upgrade, versions
from moderation.errors import BundleRejected, PermanentError
from moderation.manifest import FITTED_ON, FORMAT
from moderation.scoring import Scorer, ScoringItem
from tests.tiny_bundle import TinyRun
from tests.toy import toy_image


def test_bundle_keeps_digest_when_built_again(tiny: TinyRun, tmp_path: Path) -> None:
    again = build(tmp_path / "again", tiny.parts, tiny.description)
    assert again.digest == tiny.bundle.digest
    assert again.manifest == tiny.bundle.manifest
    assert (again.folder / "manifest.json").read_bytes() == (
        tiny.bundle.folder / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize("field", ["snapshot", "code", "config", "seed", "prior_study"])
def test_digest_changes_when_an_input_does(tiny: TinyRun, tmp_path: Path, field: str) -> None:
    value = {"seed": 99, "snapshot": "1" * 64}.get(field, "other")
    inputs = tiny.description.inputs.model_copy(update={field: value})
    description = tiny.description.model_copy(update={"inputs": inputs})
    other = build(tmp_path / "other", tiny.parts, description)
    assert other.digest != tiny.bundle.digest
    assert other.versions == tiny.bundle.versions


def test_bundle_loads_where_its_name_is_its_digest(tiny_bundle: Bundle, tmp_path: Path) -> None:
    kept = store(tiny_bundle, tmp_path)
    assert kept.folder == tmp_path / tiny_bundle.digest
    assert store(tiny_bundle, tmp_path).digest == kept.digest
    assert [path.name for path in tmp_path.iterdir()] == [tiny_bundle.digest]


def test_bundle_is_refused_when_digest_is_unexpected(
    tiny_bundle: Bundle, bundle_copy: Path
) -> None:
    with pytest.raises(BundleRejected, match="the expected digest"):
        Bundle.open(bundle_copy, digest="0" * 64)
    named = bundle_copy.rename(bundle_copy.with_name("0" * 64))
    with pytest.raises(BundleRejected, match="name of its folder"):
        Bundle.open(named, digest=tiny_bundle.digest)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (lambda b: _flip(b / "ngram/ngram.safetensors"), "ngram.safetensors: was altered"),
    "altered_graph": (lambda b: _flip(b / "heads/heads.onnx"), "heads.onnx: was altered"),
    "missing": (lambda b: (b / "ensemble.json").unlink(), "ensemble.json: is in the manifest but"),
    "extra": (lambda b: (b / "ngram/more.json").write_text("{}"), "more.json: is not in the man"),
    "no_manifest": (lambda b: (b / "manifest.json").unlink(), "manifest.json: is missing"),
    "foreign_type": (lambda b: (b / "ngram/code.pkl").write_bytes(b"\x80\x04."), "code.pkl: this"),
    "hidden": (lambda b: (b / ".hidden.json").write_text("{}"), "not a plain relative path"),
    "pipe": (lambda b: os.mkfifo(b / "pipe.json"), "pipe.json: is a link or a special file"),
    "link": (lambda b: _replace_by_link(b / "ensemble.json"), "ensemble.json: is a link"),
    "folder_link": (lambda b: (b / "more").symlink_to(b / "ngram"), "more: is a link"),
}


def _replace_by_link(path: Path) -> None:
    moved = path.rename(path.parent.parent / "elsewhere.json")
    path.symlink_to(moved)


@pytest.mark.parametrize("damage", _DAMAGE)
def test_bundle_is_refused_when_damaged(bundle_copy: Path, damage: str) -> None:
    inflict, message = _DAMAGE[damage]
    inflict(bundle_copy)
    with pytest.raises(BundleRejected, match=message):
        Bundle.open(bundle_copy)


def _edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["digest"]
    change(content)
    path.write_text(json.dumps(content))


_EDITS: dict[str, tuple[Callable[[dict], object], str]] = {  # type: ignore[type-arg]
    "format": (lambda m: m.update(format="tidegate.bundle/2"), f"this release reads '{FORMAT}'"),
    "unknown_field": (lambda m: m.update(more=1), "more: Extra inputs"),
    "seed": (lambda m: m["inputs"].update(seed="3"), "inputs.seed"),
    "escape": (lambda m: m["files"].update({"../x.json": "0" * 64}), "not a plain relative path"),
    "absolute": (lambda m: m["files"].update({"/x.json": "0" * 64}), "not a plain relative path"),
    "backslash": (lambda m: m["files"].update({"a\\b.json": "0" * 64}), "not a plain relative"),
    "version": (lambda m: m["components"]["ngram"].update(version="0" * 16), "component ngram"),
    "dropped": (lambda m: m["components"].pop("ngram"), "disagree about"),
    "features": (lambda m: m.update(features=["age"]), "other ensemble members or behaviour"),
    "policies": (lambda m: m.update(policies=["weapons"]), "fit the part again"),
    "fitted_on": (
        lambda m: m["components"]["ensemble"]["fitted_on"].update(ngram="0" * 16),
        "ensemble: was fitted on ngram 0000000000000000",
    ),
    "no_fitted_on": (
        lambda m: m["components"]["thresholds"].update(fitted_on={}),
        "thresholds: says that it was fitted on",
    ),
}


@pytest.mark.parametrize("edit", _EDITS)
def test_bundle_is_refused_when_manifest_lies(bundle_copy: Path, edit: str) -> None:
    change, message = _EDITS[edit]
    _edit(bundle_copy, change)
    with pytest.raises(BundleRejected, match=message):
        Bundle.open(bundle_copy)


def test_edited_manifest_is_refused_by_its_digest_field(bundle_copy: Path) -> None:
    path = bundle_copy / "manifest.json"
    path.write_text(path.read_text().replace('"profile":"tiny"', '"profile":"grand"'))
    with pytest.raises(BundleRejected, match="its digest field"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', "[" * 100_000, "", "\xff"])
def test_json_is_refused_when_not_strict(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleRejected, match=r"x\.json"):
        files.read_json(path, path.name)


@pytest.mark.parametrize("name", ["a.json", "b/c.onnx", "b/d.safetensors", "e.txt"])
@pytest.mark.parametrize("content", [b"\x80\x04\x95.", b"PK\x03\x04\x00\x00", b"\x93NUMPY\x01\x00"])
def test_content_is_refused_when_of_another_type(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / Path(name).name
    path.write_bytes(content + bytes(64))
    with pytest.raises(BundleRejected, match=Path(name).name):
        files.check_content(path, path.name)


def test_graph_is_refused_when_weights_lie_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x09" + bytes(2**20 - 6) + b"\x0a\x08location\x12\x0c../../passwd")
    with pytest.raises(BundleRejected, match="keeps weights in another file"):
        files.check_content(path, path.name)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=80, deadline=None)
def test_tensor_header_is_refused_when_forged(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, with_length: bool
) -> None:
    path = tmp_path_factory.mktemp("forged") / "x.safetensors"
    path.write_bytes((len(noise).to_bytes(8, "little") if with_length else b"") + noise)
    with pytest.raises(BundleRejected, match=r"x\.safetensors"):
        files.read_tensor_header(path, path.name)


@pytest.mark.parametrize("change", ["cut", "padded"])
def test_tensors_are_refused_when_cut_or_padded(tmp_path: Path, change: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((3, 2), np.float32), "b": np.ones(1, np.int8)}, path)
    spans = files.read_tensor_header(path, path.name)
    assert {key: span.shape for key, span in spans.items()} == {"a": (3, 2), "b": (1,)}
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change == "cut" else content + b"\x00")
    with pytest.raises(BundleRejected, match="cut short|bytes after"):
        files.read_tensor_header(path, path.name)


def test_build_is_refused_when_a_part_is_missing(tiny: TinyRun, tmp_path: Path) -> None:
    parts = {name: path for name, path in tiny.parts.items() if name != "behaviour"}
    with pytest.raises(BundleRejected, match="behaviour/: is missing"):
        build(tmp_path / "b", parts, tiny.description)
    assert list(tmp_path.iterdir()) == []


def test_build_is_refused_when_folder_is_taken(tiny: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(PermanentError, match="is taken"):
        build(tmp_path / "b", tiny.parts, tiny.description)
    assert (tmp_path / "b" / "mine.txt").read_text() == "keep"
    assert len(list(tmp_path.iterdir())) == 1


def test_build_is_refused_when_fitted_on_others(tiny: TinyRun, tmp_path: Path) -> None:
    known = versions(tiny.parts)
    assert known == tiny.bundle.versions
    needed = {name: known[name] for name in FITTED_ON["ensemble"]} | {"behaviour": "0" * 16}
    parts: Parts = {**tiny.parts, "ensemble": Part(tiny.parts["ensemble"], needed)}
    with pytest.raises(BundleRejected, match="ensemble: was fitted on behaviour 0000"):
        build(tmp_path / "b", parts, tiny.description)


def _changed_heads(source: Path, target: Path, prefixes: tuple[str, ...]) -> Path:
    """Copy heads with some tensors changed and the graph left as it was."""
    shutil.copytree(source, target)
    tensors = load_file(target / "heads.safetensors")
    for name, tensor in tensors.items():
        if name.startswith(prefixes):
            tensors[name] = tensor + 1
    save_file(tensors, target / "heads.safetensors")
    return target


def test_upgrade_replaces_one_modality_alone(tiny: TinyRun, tmp_path: Path) -> None:
    """A new image head needs a new ensemble and thresholds; everything else keeps its bytes."""
    old = tiny.bundle
    heads = _changed_heads(tiny.parts["heads"], tmp_path / "heads", ("image_head.",))
    changed = versions({"heads": heads})
    known = old.versions | {"heads.image": changed["heads.image"]}
    parts = {
        "heads.image": Part(heads, {"image_tower": known["image_tower"]}),
        "ensemble": Part(tiny.parts["ensemble"], {n: known[n] for n in FITTED_ON["ensemble"]}),
        "thresholds": Part(tiny.parts["thresholds"], {"ensemble": known["ensemble"]}),
    }
    upgraded = upgrade(old, parts, tiny.description.inputs, tmp_path / "upgraded")
    assert upgraded.manifest.inputs.parent == old.digest
    changed_names = {n for n, v in upgraded.versions.items() if v != old.versions[n]}
    assert changed_names == {"heads.image"}
    before, after = old.manifest.files, upgraded.manifest.files
    assert {name for name in before if after[name] != before[name]} == {"heads/heads.safetensors"}


def test_upgrade_is_refused_when_ensemble_is_kept(tiny: TinyRun, tmp_path: Path) -> None:
    heads = _changed_heads(tiny.parts["heads"], tmp_path / "heads", ("image_head.",))
    on = {"image_tower": tiny.bundle.versions["image_tower"]}
    with pytest.raises(BundleRejected, match="ensemble: was fitted on heads.image .* fit ensemble"):
        upgrade(
            tiny.bundle,
            {"heads.image": Part(heads, on)},
            tiny.description.inputs,
            tmp_path / "upgraded",
        )


def test_upgrade_is_refused_when_a_kept_head_changes(tiny: TinyRun, tmp_path: Path) -> None:
    heads = _changed_heads(tiny.parts["heads"], tmp_path / "heads", ("image_head.", "text_head."))
    on = {"image_tower": tiny.bundle.versions["image_tower"]}
    with pytest.raises(BundleRejected, match=r"heads\.text: would change though it is kept"):
        upgrade(
            tiny.bundle,
            {"heads.image": Part(heads, on)},
            tiny.description.inputs,
            tmp_path / "upgraded",
        )


def test_upgrade_is_refused_when_nothing_is_declared(tiny: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(BundleRejected, match="does not say what it was fitted on"):
        upgrade(
            tiny.bundle,
            {"ensemble": tiny.parts["ensemble"]},
            tiny.description.inputs,
            tmp_path / "upgraded",
        )


def test_unknown_component_is_refused(tiny: TinyRun, tmp_path: Path) -> None:
    parts = {**tiny.parts, "video": tiny.parts["ngram"]}
    with pytest.raises(BundleRejected, match="'video': is no component"):
        build(tmp_path / "b", parts, tiny.description)


def _trained_heads(tiny: TinyRun, folder: Path, changed: str) -> Path:
    """Export heads of which one was trained anew: its first layer is another."""
    import torch

    from moderation.network import export_heads, load_heads
    from moderation.profiles import PROFILES

    heads = load_heads(tiny.parts["heads"])
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in heads.state_dict().items():
            if name.startswith(changed):
                tensor.add_(torch.randn(tensor.shape, generator=generator))
    export_heads(heads, PROFILES["tiny"].heads, folder)
    return folder


def _refitted(tiny: TinyRun, heads: Path, *replaced: str) -> Parts:
    """Return the parts of an upgrade of some heads, everything above them fitted again."""
    known = tiny.bundle.versions | {n: versions({"heads": heads})[n] for n in replaced}
    return {
        **{name: Part(heads, {t: known[t] for t in FITTED_ON[name]}) for name in replaced},
        "ensemble": Part(tiny.parts["ensemble"], {n: known[n] for n in FITTED_ON["ensemble"]}),
        "thresholds": Part(tiny.parts["thresholds"], {"ensemble": known["ensemble"]}),
    }


def test_upgraded_head_leaves_others_answering_alike(tiny: TinyRun, tmp_path: Path) -> None:
    heads = _trained_heads(tiny, tmp_path / "heads", "image_head.")
    parts = _refitted(tiny, heads, "heads.image")
    upgraded = upgrade(tiny.bundle, parts, tiny.description.inputs, tmp_path / "upgraded")
    items = [ScoringItem("blue pistol", "cash", behaviour=np.ones(16, np.float32))]
    before, after = (Scorer(bundle).score(items) for bundle in (tiny.bundle, upgraded))
    assert after.probability_NP == pytest.approx(before.probability_NP, abs=1e-6)
    items = [ScoringItem(images=[toy_image(np.random.default_rng(1), (200, 30, 30))])]
    before, after = (Scorer(bundle).score(items) for bundle in (tiny.bundle, upgraded))
    assert np.abs(after.probability_NP - before.probability_NP).max() > 1e-3


def test_upgrade_is_refused_when_graph_of_kept_head_differs(tiny: TinyRun, tmp_path: Path) -> None:
    """The tensors say that the text head is kept; the graph, which is what runs, says otherwise."""
    heads = _trained_heads(tiny, tmp_path / "heads", "text_head.")
    tensors = load_file(tiny.parts["heads"] / "heads.safetensors")
    tensors = {n: t + n.startswith("image_head.") for n, t in tensors.items()}
    save_file({n: t.astype(np.float32) for n, t in tensors.items()}, heads / "heads.safetensors")
    parts = _refitted(tiny, heads, "heads.image")
    with pytest.raises(BundleRejected, match=r"answers otherwise for heads\.text"):
        upgrade(tiny.bundle, parts, tiny.description.inputs, tmp_path / "upgraded")


def test_build_is_refused_when_widths_differ(tiny: TinyRun, tmp_path: Path) -> None:
    tower = Path(shutil.copytree(tiny.parts["image_tower"], tmp_path / "tower"))
    facts = json.loads((tower / "tower.json").read_text())
    (tower / "tower.json").write_text(json.dumps(facts | {"dim": 7}))
    with pytest.raises(BundleRejected, match="width of image embeddings"):
        build(tmp_path / "b", {**tiny.parts, "image_tower": tower}, tiny.description)


def test_builders_agree_when_they_race(tiny: TinyRun, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(build, tmp_path / "b", tiny.parts, tiny.description) for _ in range(4)]
    assert {one.result().digest for one in done} == {tiny.bundle.digest}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
