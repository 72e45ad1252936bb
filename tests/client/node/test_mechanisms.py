"""Every mechanism through real rounds: real servers, real shares, every hospital's node."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.charters import MECHANISMS
from support.federation import Federation, make_federation
from support.learning import discs
from support.processes import running_servers
from support.relay import running_relay
from support.site import DIMENSION, PUBLIC_SET, Site, patients, site_of

from fedhelp_client.models import build_model
from fedhelp_client.node import release
from fedhelp_client.node.mechanisms import Own, proxy_logits, release_labels
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.privacy.account import check_chain, check_under_charter
from fedhelp_secure.privacy.mechanisms import (
    LogitNoise,
    MechanismMisused,
    ProbeMechanism,
    PublicLabels,
    Setting,
)
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.privacy.records import Reservation
from fedhelp_secure.public_set import PublicSet

COUNT = len(PUBLIC_SET.images)
VALUES = {"probe": 2 * DIMENSION, "logit_noise": 2 * COUNT, "dp_sgd": 2 * COUNT}


def federation_of(root: Path, mechanism: MechanismName, **parameters: object) -> Federation:
    overrides = copy.deepcopy(MECHANISMS[mechanism])
    if parameters:
        overrides["privacy"][mechanism] |= parameters
    overrides.setdefault("rounds", {"count": 1})["deadline_seconds"] = 120
    overrides["cohort"] = {"minimum": 3}
    return make_federation(root, large=1, small=2, **overrides, proxy={"count": COUNT})


def own_of(number: int) -> Own:
    """Six patients of one hospital, and a network that has learnt nothing."""
    dataset = discs(6, seed=number, task="classification")
    features = PUBLIC_SET.features[6 * number : 6 * (number + 1)].astype(np.float64)
    model = build_model("small", task="classification", classes=2, seed=number)
    return Own(dataset, features, model, "classification")


def sites_of(federation: Federation, address: str) -> list[Site]:
    return [site_of(federation, one.name, address) for one in federation.charter.hospitals]


def run_all(sites: list[Site]) -> list[PublicLabels]:
    with ThreadPoolExecutor(len(sites)) as pool:
        running = [
            pool.submit(release_labels, site.releaser, PUBLIC_SET, own_of(number))
            for number, site in enumerate(sites)
        ]
        return [future.result(timeout=120) for future in running]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(values, scale) of every draw in this process."""
    drawn: list[tuple[int, int]] = []

    def counted(values: int, scale_units: int) -> NDArray[np.int64]:
        drawn.append((values, scale_units))
        return draw_share(values, scale_units)

    monkeypatch.setattr(release, "draw_share", counted)
    return drawn


@pytest.mark.parametrize(
    ("mechanism", "parameters"),
    [
        ("logit_noise", {}),
        ("dp_sgd", {}),
        ("dp_sgd", {"model": "group_norm_cnn", "steps": 2, "sampling_rate": "0.3"}),
    ],
    ids=["logit_noise", "dp_sgd", "dp_sgd network"],
)
def test_a_mechanism_runs_through_real_rounds(
    tmp_path: Path,
    draws: list[tuple[int, int]],
    mechanism: MechanismName,
    parameters: dict[str, object],
) -> None:
    federation = federation_of(tmp_path / "parties", mechanism, **parameters)
    charter = federation.charter
    with running_servers(federation, tmp_path / "run") as servers:
        sites = sites_of(federation, servers.addresses["aggregator"])
        labels = run_all(sites)
    assert charter.secure_sum.values == VALUES[mechanism]
    for one in labels:
        np.testing.assert_array_equal(one.proxies, labels[0].proxies)
        np.testing.assert_array_equal(one.model, labels[0].model)
    assert labels[0].proxies.shape == (COUNT, 1, 2)
    np.testing.assert_allclose(labels[0].proxies.sum(axis=2), 1)
    assert np.ptp(labels[0].proxies) > 0
    for site in sites:
        # Reserved, sent and opened.
        account = site.ledger.account()
        assert len(account.entries) == 3
        record = account.entries[0].record
        assert isinstance(record, Reservation)
        assert record.event.mechanism == mechanism
        key = site.state.signing_key().public
        again = check_chain(
            [entry.envelope for entry in account.entries],
            hospital=site.state.identity.name,
            keys=[key],
        )
        spent = check_under_charter(again, charter)
        assert 0 < spent.epsilon_aggregate <= 8
        same = spent.epsilon_aggregate == spent.epsilon_collusion
        assert same == (mechanism == "dp_sgd")
    if charter.privacy.dp_sgd is None:
        shares = {(2 * COUNT, charter.share_units(group)) for group in ("large", "small")}
        assert set(draws) == shares
        assert len(draws) == len(sites)
    else:
        assert len(draws) == len(sites) * charter.privacy.dp_sgd.steps
        assert {scale for _, scale in draws} == {charter.privacy.sigma_units}


def test_the_debit_of_sampled_steps_is_there_before_the_first_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federation_of(tmp_path / "parties", "dp_sgd")
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = sites_of(federation, address)[0]
        seen: list[int] = []

        def crashing(values: int, scale_units: int) -> NDArray[np.int64]:
            seen.append(len(site.ledger.account().entries))
            raise KeyboardInterrupt

        monkeypatch.setattr(release, "draw_share", crashing)
        with pytest.raises(KeyboardInterrupt):
            release_labels(site.releaser, PUBLIC_SET, own_of(0))
    assert seen == [1]
    assert not relay.received
    assert site.stored() == {}


def test_a_node_refuses_a_charter_whose_shares_do_not_protect_before_anything(
    tmp_path: Path,
) -> None:
    """Such a charter parses nowhere; a node does not rely on that."""
    federation = federation_of(tmp_path / "parties", "logit_noise")
    charter = federation.charter
    coarse = charter.privacy.model_copy(update={"sigma_units": 3})
    lonely = charter.cohort.model_copy(update={"minimum": 2, "colluders": 2})
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        for update, reason in (
            ({"privacy": coarse}, "under 4 grid units"),
            ({"cohort": lonely}, "t = m - c >= 1"),
        ):
            unsound = charter.model_copy(update=update)
            site = site_of(replace(federation, charter=unsound), "small-1", address)
            with pytest.raises(CharterRefused, match=reason):
                release_labels(site.releaser, PUBLIC_SET, own_of(0))
            assert not site.ledger.account().entries
            assert site.stored() == {}
    assert not relay.received


def test_a_node_runs_only_the_charters_mechanism(tmp_path: Path) -> None:
    federation = federation_of(tmp_path / "parties", "logit_noise")
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = sites_of(federation, address)[0]
        setting = Setting(federation.charter, PUBLIC_SET, site.state.identity.name)
        with pytest.raises(MechanismMisused, match="another mechanism"):
            site.releaser.run(ProbeMechanism(setting), patients(3))
    assert not relay.received
    assert not site.ledger.account().entries


def test_maps_are_averaged_over_each_patch() -> None:
    model = build_model("small", task="segmentation", classes=2, seed=1)
    features = np.repeat(PUBLIC_SET.features, 4, axis=1)
    public_set = PublicSet(PUBLIC_SET.images, features, PUBLIC_SET.projection)
    logits = proxy_logits(model, public_set, "segmentation")
    assert logits.shape == (COUNT, 4, 2)
    whole = proxy_logits(
        model,
        PublicSet(PUBLIC_SET.images, PUBLIC_SET.features, PUBLIC_SET.projection),
        "segmentation",
    )
    np.testing.assert_allclose(logits.mean(axis=1, keepdims=True), whole, atol=1e-6)
    assert LogitNoise.__dataclass_fields__["name"].default == "logit_noise"
