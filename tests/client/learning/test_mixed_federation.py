"""Hospitals with networks that have nothing in common, through real rounds and distillation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from support.charters import MECHANISMS
from support.federation import make_federation
from support.learning import discs, silent
from support.processes import running_servers
from support.site import PUBLIC_SET, Site, site_of

from fedhelp_client.architecture import Architecture, preset
from fedhelp_client.distillation import distil, distillation_plan
from fedhelp_client.models import HospitalModel, Preset, build_network
from fedhelp_client.node.mechanisms import Own, release_labels
from fedhelp_client.training import TrainingPlan, train_alone
from fedhelp_secure.privacy.mechanisms import PublicLabels

_QUICK = TrainingPlan(passes=32, learning_rate=1e-3)
_NETWORKS = (
    preset("densenet-small", "classification"),
    Architecture(
        network="monai.networks.nets.EfficientNetBN",
        parameters={
            "model_name": "efficientnet-b0",
            "pretrained": False,
            "spatial_dims": 2,
            "in_channels": 1,
        },
        classes="num_classes",
        side=32,
    ),
    preset("small", "classification"),
)


def test_hospitals_with_different_networks_learn_from_one_teacher(tmp_path: Path) -> None:
    count = len(PUBLIC_SET.images)
    overrides = {**MECHANISMS["logit_noise"], "rounds": {"count": 1, "deadline_seconds": 120}}
    federation = make_federation(
        tmp_path / "parties",
        large=1,
        small=2,
        **overrides,
        cohort={"minimum": 3},
        proxy={"count": count},
    )
    owns = [_own(number) for number in range(len(_NETWORKS))]
    with running_servers(federation, tmp_path / "run") as servers:
        address = servers.addresses["aggregator"]
        sites = [site_of(federation, one.name, address) for one in federation.charter.hospitals]
        with ThreadPoolExecutor(len(sites)) as pool:
            running = [pool.submit(_release, *pair) for pair in zip(sites, owns, strict=True)]
            labels = [future.result(timeout=120) for future in running]
    for one in labels:
        np.testing.assert_array_equal(one.proxies, labels[0].proxies)
    widths = set()
    for own, site in zip(owns, sites, strict=True):
        group = federation.charter.hospital(site.state.identity.name).group
        before = {name: value.clone() for name, value in own.model.state_dict().items()}
        _distil(own, labels[0], group)
        after = own.model.state_dict()
        assert all(torch.isfinite(value).all() for value in after.values())
        assert not torch.equal(before["head.weight"], after["head.weight"])
        widths.add(before["head.weight"].shape[1])
    assert len(widths) == len(_NETWORKS)


def _own(number: int) -> Own:
    dataset = discs(6, seed=number, task="classification")
    model: HospitalModel = build_network(
        _NETWORKS[number], task="classification", classes=2, seed=number
    )
    train_alone(model, dataset, task="classification", seed=number, progress=silent, plan=_QUICK)
    features = PUBLIC_SET.features[6 * number : 6 * (number + 1)].astype(np.float64)
    return Own(dataset, features, model, "classification")


def _release(site: Site, own: Own) -> PublicLabels:
    return release_labels(site.releaser, PUBLIC_SET, own)


def _distil(own: Own, labels: PublicLabels, group: Preset) -> None:
    random = np.random.default_rng(1)
    count = len(PUBLIC_SET.images)
    distil(
        own.model,
        own.dataset,
        task="classification",
        group=group,
        proxy_images=PUBLIC_SET.images,
        teacher=labels.proxies[:, 0].astype(np.float32),
        own_teacher=None,
        foundation_embeddings=random.normal(size=(count, 6)).astype(np.float32),
        seed=0,
        progress=silent,
        plan=replace(distillation_plan("classification", group), training=_QUICK),
    )
