"""The commands that make a federation's data, and `check`, which looks through a hospital's."""

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


def check(
    folder: Annotated[Path, typer.Argument(help="Folder with labels.csv and the images.")],
    task: Annotated[_Task, typer.Option(help="What is learnt.")] = "classification",
    maximum_images: Annotated[
        int, typer.Option(min=1, help="Images of one patient that count: the charter's.")
    ] = 100,
) -> None:
    """Look for patients under two identifiers, and for images that would not count.

    What it prints is about patients: it is for this screen, and goes nowhere else.
    """
    from fedhelp_client.data.contribution import beyond_cap
    from fedhelp_client.data.duplicates import find_duplicates
    from fedhelp_client.data.folder import image_names, read_folder
    from fedhelp_secure.logs import one_line

    dataset, names = read_folder(folder, task), image_names(folder)
    pairs = find_duplicates(dataset)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(dataset.examples)} images of {len(dataset.patients())} patients.")
    console.print(
        f"{beyond_cap(dataset, maximum_images)} images are beyond {maximum_images} of one patient; "
        "a node leaves them out."
    )
    for pair in pairs:
        what = "are the same picture" if pair.exact else f"differ in {pair.bits} bits of 256"
        console.print(one_line(f"{names[pair.first]} and {names[pair.second]} {what}."))
    exact = any(pair.exact for pair in pairs)
    if pairs:
        console.print(
            "These stand under two patient identifiers, but privacy is counted per patient. If the "
            "images are of one person, give both lines the same patient_id; if one is filed "
            "wrongly, correct or remove its line."
        )
    else:
        console.print("No image looks like one of another patient.")
    if exact:
        console.print("A node refuses this folder until no picture stands under two identifiers.")
        raise typer.Exit(1)
