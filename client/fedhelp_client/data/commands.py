"""The commands that make a federation's data: `simulate` and `build_public_set`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

_Task = Literal["classification", "segmentation"]
_Dataset = Literal["busi", "breastmnist", "phantom", "folder"]


def simulate(
    out: Annotated[Path, typer.Option(help="New folder for the data.")],
    dataset: Annotated[_Dataset | None, typer.Option(help="Default: what --data holds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder; default: $FEDHELP_DATA.")] = None,
    task: Annotated[_Task, typer.Option(help="What is learnt.")] = "classification",
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the phantom only.")] = 0,
    large: Annotated[int, typer.Option(min=0, help="Large hospitals.")] = 2,
    small: Annotated[int, typer.Option(min=0, help="Small hospitals.")] = 4,
) -> None:
    """Split one dataset into hospitals, a proxy set and a test set, patient by patient."""
    from fedhelp_client.data.simulation import simulate_federation
    from fedhelp_client.data.sources import Request, resolve
    from fedhelp_client.data.split import SplitPlan

    request = Request(dataset=dataset, data=data, task=task, seed=seed)
    source = resolve(request, environment=os.environ, home=Path.home())
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(source.sentence)
    plan = SplitPlan(large=large, small=small)
    written = simulate_federation(source, out, task=task, plan=plan, seed=seed)
    console.print(
        f"{large} large and {small} small hospitals, {written.proxy_images} proxy images and "
        f"{written.test_images} test images are in {out}."
    )


def build_public_set(
    images: Annotated[Path, typer.Option(help="Folder with the public proxy images.")],
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
    dimension: Annotated[int, typer.Option(min=2, help="Of the projected features.")],
    task: Annotated[_Task, typer.Option(help="What is learnt.")] = "classification",
) -> None:
    """Embed the proxy images with the frozen backbone and fit the projection on them."""
    from fedhelp_client.data.embeddings import embed, resize_images
    from fedhelp_client.data.folder import load_images
    from fedhelp_secure.backbone import load_backbone
    from fedhelp_secure.privacy.defaults import PROJECTIONS
    from fedhelp_secure.public_set import PublicSet, fit_projection

    proxies = resize_images(load_images(images))
    # Nothing else runs yet when a public set is made: two cores may share the work.
    embeddings = embed(load_backbone(threads=2), proxies, task)
    chosen = PROJECTIONS[task]
    projection = fit_projection(
        embeddings, dimension, whitening=chosen.whitening, constant=chosen.constant
    )
    public_set = PublicSet(
        images=proxies, features=projection.apply(embeddings), projection=projection
    )
    public_set.save(out)
    Console(highlight=False, markup=False, soft_wrap=True).print(
        f"{len(proxies)} public images with {dimension} features each are in {out}."
    )
