"""Serving, deciding and replaying through the command, with real processes on a real bundle."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.home import Home
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from tests.judged import CONTRACT_TEXT, judged
from tests.toy import toy_world
from tidegate.deciding import Listed
from tidegate.demo import pick_listings
from tidegate.serving import admin_token


@dataclass
class Laptop:
    """A home that is served."""

    home: Path
    bundle: Bundle

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tidegate", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "TIDEGATE__HOME": str(self.home),
            "TIDEGATE__RELEASE_FILE": str(self.home / "release.yaml"),
            "COLUMNS": "200",
        }


@pytest.fixture(scope="module")
def laptop(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path_factory.mktemp("home"), tiny_bundle)
    (laptop.home / "release.yaml").write_text(CONTRACT_TEXT)
    judged(tiny_bundle, Home(laptop.home))
    command = [sys.executable, "-m", "tidegate", "serve", "--bundle", str(tiny_bundle.folder)]
    log = laptop.home / "serve.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=laptop.environment)
    try:
        for _ in range(900):
            if "Ctrl-C stops all of them" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield laptop
    finally:
        process.terminate()
        assert process.wait(40) == 128 + 15, log.read_text()
    assert not (laptop.home / "gateway.json").exists()


def _trace(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("trace "))
    return line.split()[1].rstrip(":")


def test_decide_shows_tier_and_evidence(laptop: Laptop) -> None:
    done = laptop.run("decide", "--title", "pistol ammo barrel")
    _trace(done)
    assert "weapons" in done.stdout
    for word in ("probability", "fusion", "ngram", "no image"):
        assert word in done.stdout


def test_decide_reads_a_file_with_images(laptop: Laptop, tmp_path: Path) -> None:
    world = toy_world(8)
    row = next(row for row in world.rows if row.submission.image_digests)
    (tmp_path / "photo.png").write_bytes(world.images(row)[0])
    request = {"listing": {"listing_id": "l1", "title": "garden chair"}, "images": ["photo.png"]}
    (tmp_path / "listing.json").write_text(json.dumps(request))
    done = laptop.run("decide", str(tmp_path / "listing.json"))
    _trace(done)
    assert "worst image 1 of 1" in done.stdout


def test_decide_shows_what_the_gateway_refuses(laptop: Laptop, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"this is no image")
    done = laptop.run("decide", "--title", "chair", "--image", str(tmp_path / "photo.jpg"))
    assert done.returncode == 2
    assert "images[0]" in done.stderr
    assert "Traceback" not in done.stderr


def test_replay_gives_the_decision_again(laptop: Laptop) -> None:
    trace_id = _trace(laptop.run("decide", "--title", "whatsapp click cash"))
    done = laptop.run("replay", trace_id, "--bundle", str(laptop.bundle.folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout
    assert "within 1e-05" in done.stdout


def test_serve_tells_what_the_release_stands_on(laptop: Laptop) -> None:
    told = (laptop.home / "serve.log").read_text()
    assert f"bundle     {laptop.bundle.digest}, passed" in told
    assert "a first release" in told


def test_bundle_show_and_verify_accept_a_whole_bundle(laptop: Laptop) -> None:
    shown = laptop.run("bundle", "show", str(laptop.bundle.folder))
    assert shown.returncode == 0, shown.stderr
    assert laptop.bundle.digest in shown.stdout
    assert "heads.fusion" in shown.stdout
    verified = laptop.run("bundle", "verify", str(laptop.bundle.folder))
    assert verified.returncode == 0
    assert "verified" in verified.stdout


def test_bundle_verify_refuses_an_altered_one(laptop: Laptop, bundle_copy: Path) -> None:
    path = bundle_copy / "thresholds.json"
    path.write_text(path.read_text() + " ")
    done = laptop.run("bundle", "verify", str(bundle_copy))
    assert done.returncode == 2
    assert "thresholds.json" in done.stderr


def test_admin_token_prefers_who_may_see_evidence() -> None:
    assert admin_token("a:submitter:one,b:admin:t:w:o") == "t:w:o"
    assert admin_token("a:submitter:one") == "one"
    with pytest.raises(PermanentError, match="name:role:token"):
        admin_token("")


def test_pick_listings_shows_every_policy_and_clean_ones() -> None:
    def listed(violated: str | None) -> Listed:
        return Listed({"title": "x"}, (), {p: p == violated for p in ("weapons", "spam")})

    many = [listed(v) for v in ["weapons"] * 20 + ["spam"] * 20 + [None] * 60]
    picked = pick_listings(many, seed=1)
    kinds = [next((p for p, v in one.truth.items() if v), "clean") for one in picked]
    assert len(picked) == 12
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"weapons": 3, "spam": 3, "clean": 6}


def test_pick_listings_refuses_when_there_are_none() -> None:
    with pytest.raises(PermanentError, match="no unseen listing"):
        pick_listings([], seed=1)
