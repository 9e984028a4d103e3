"""`tidegate gates run` on real bundles: proved, judged, attested and settled as the pipeline does it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.prove import proof
from components.registry import Registry
from ledger.store import ContentStore
from moderation import attestation
from moderation.bundle import Bundle
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder
from moderation.errors import PermanentError
from moderation.image_copies import ImageCopies
from moderation.reading import IMAGE_FOLDER
from moderation.settings import settings
from tests.judged import CONTRACT_TEXT, contract
from tests.prove_world import ProveWorld, prove_world, with_golden
from tests.tiny_bundle import TinyRun
from tidegate.gates import run_gates


@dataclass
class Shop:
    """A home with a golden set, under the contract of one gate."""

    world: ProveWorld
    contract: Path

    def run(self, bundle: Bundle, champion: str | None = None, profile: str = "standard") -> int:
        return run_gates(
            str(bundle.folder),
            champion=champion,
            table=self.world.table.folder,
            profile=profile,
            seed=1,
        )

    @property
    def registry(self) -> Registry:
        home = self.world.home
        return Registry(home.tracking_url, bundles=home.bundles, artifacts=home.artifacts)

    def said(self, bundle: Bundle) -> attestation.Attestation:
        kept = Bundle.open(self.world.home.bundles / bundle.digest)
        return attestation.read(kept)[-1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    world = prove_world(folder, tiny)
    with_golden(world)
    path = folder / "release.yaml"
    encoder = ImageEncoder(world.candidate.folder / IMAGE_FOLDER)
    read_blob = ContentStore(world.home.content).get
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE__HOME", str(world.home.folder))
        patch.setenv("TIDEGATE__RELEASE_FILE", str(path))
        patch.setattr(  # the tower of small takes minutes
            proof,
            "image_copies",
            lambda home: ImageCopies(encoder, EmbeddingCache(home.embeddings), read_blob),
        )
        settings.cache_clear()
        yield Shop(world, path)
        settings.cache_clear()


@pytest.fixture(autouse=True)
def _contract(shop: Shop) -> None:
    shop.contract.write_text(CONTRACT_TEXT)


def test_run_proposes_names_and_blocks_a_bundle(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shop.world.candidate
    assert shop.run(bundle) == 0
    told = capsys.readouterr().out
    assert "champion  none: absolute gates only" in told
    assert "proposed" in told
    assert "@progress" not in told
    said = shop.said(bundle)
    assert (said.is_passing, said.champion, said.contract) == (True, None, contract().digest)
    assert shop.registry.champion() is None, "a bundle that is not registered gets no name"

    shop.contract.write_text(CONTRACT_TEXT.replace("limit: 0.5", "limit: 0.9999"))
    assert shop.run(bundle) == 1
    told = capsys.readouterr().out
    assert "blocked by ranks" in told
    assert not shop.said(bundle).is_passing


def test_run_compares_with_the_champion_that_is_named(shop: Shop) -> None:
    world = shop.world
    code = shop.run(world.candidate, champion=str(world.champion.folder))
    said = shop.said(world.candidate)
    assert said.champion == world.champion.digest
    assert {verdict.gate for verdict in said.verdicts} == {"ranks", "better"}
    assert code == (0 if said.is_passing else 1)


def test_run_under_a_profile_that_does_not_count_names_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.run(shop.world.candidate, profile="lenient") == 0
    assert "a pass under lenient does not count in this home" in capsys.readouterr().out
    assert shop.said(shop.world.candidate).profile == "lenient"
    assert shop.registry.champion() is None


def test_run_refuses_to_compare_a_bundle_with_itself(shop: Shop) -> None:
    with pytest.raises(PermanentError, match="compared with itself"):
        shop.run(shop.world.candidate, champion=str(shop.world.candidate.folder))


def test_run_asks_for_the_table_when_it_is_unknown(shop: Shop) -> None:
    with pytest.raises(PermanentError, match="name its folder with --table"):
        run_gates(
            str(shop.world.candidate.folder),
            champion="none",
            table=None,
            profile="standard",
            seed=1,
        )
