"""The commands that make a federation's data, and `check`, which looks through a hospital's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fedhelp_client.data.folder import FolderContent
    from fedhelp_client.data.types import Dataset

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
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Hospitals' images as DICOM files, to try that.")
    ] = False,
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
    written = simulate_federation(source, out, task=task, plan=plan, seed=seed, dicom=dicom)
    console.print(
        f"{large} large and {small} small hospitals, {written.proxy_images} proxy images and "
        f"{written.test_images} test images are in {out}."
    )


def build_public_set(
    images: Annotated[Path, typer.Option(help="Folder with the public proxy images.")],
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
    dimension: Annotated[int, typer.Option(min=2, help="Of the projected features.")],
    task: Annotated[_Task, typer.Option(help="What is learnt.")] = "classification",
    public_embeddings: Annotated[
        Path | None,
        typer.Option(help="Folder to keep what the backbone says, for nodes on this machine."),
    ] = None,
) -> None:
    """Embed the proxy images with the frozen backbone and fit the projection on them."""
    from fedhelp_client.data.embedding_store import EmbeddingStore
    from fedhelp_client.data.embeddings import embed, resize_images
    from fedhelp_client.data.folder import load_images
    from fedhelp_secure.backbone import load_backbone
    from fedhelp_secure.privacy.defaults import PROJECTIONS
    from fedhelp_secure.public_set import PublicSet, fit_projection

    proxies = resize_images(load_images(images))
    # Nothing else runs yet when a public set is made: two cores may share the work.
    embeddings = embed(load_backbone(threads=2), proxies, task)
    if public_embeddings is not None:
        store = EmbeddingStore(public_embeddings, task)
        for image, embedding in zip(proxies, embeddings, strict=True):
            store.keep(image, embedding)
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
    pictures: Annotated[
        Path | None, typer.Option(help="PNG file to write, with small pictures to look at.")
    ] = None,
) -> None:
    """Read a hospital's folder as a node would, and show what is in it and what is wrong with it.

    What it prints and draws is about patients: it is for this screen, and goes nowhere else.
    """
    from fedhelp_client.data.contact_sheet import write_contact_sheet
    from fedhelp_client.data.contribution import beyond_cap
    from fedhelp_client.data.folder import read_content
    from fedhelp_secure.logs import one_line

    content = read_content(folder, task)
    dataset = content.dataset
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_table_of(dataset))
    console.print(f"{len(dataset.examples)} images of {len(dataset.patients())} patients.")
    console.print(
        f"{beyond_cap(dataset, maximum_images)} images are beyond {maximum_images} of one patient; "
        "a node leaves them out."
    )
    for note in content.notes:
        console.print(one_line(note))
    if pictures is not None:
        shown = write_contact_sheet(dataset, pictures)
        console.print(f"{shown} of the images are in {pictures}, for your eyes only.")
    _report_duplicates(console, content)


def _table_of(dataset: Dataset) -> Table:
    """Images, patients, sizes and masks of each class."""
    table = Table("class", "images", "patients", "pixels (least to largest)", "with mask")
    for label, name in enumerate(dataset.classes):
        examples = [example for example in dataset.examples if example.label == label]
        sizes = sorted(example.image.shape for example in examples)
        table.add_row(
            name,
            str(len(examples)),
            str(len({example.patient for example in examples})),
            " to ".join(f"{size[1]} x {size[0]}" for size in dict.fromkeys(sizes[:1] + sizes[-1:])),
            str(sum(example.mask is not None for example in examples)),
        )
    return table


def _report_duplicates(console: Console, content: FolderContent) -> None:
    """Print what stands, or may stand, under two patient identifiers; exit 1 if it surely does."""
    from fedhelp_client.data.duplicates import find_duplicates
    from fedhelp_secure.logs import one_line

    pairs = find_duplicates(content.dataset)
    for pair in pairs:
        what = "are the same picture" if pair.exact else f"differ in {pair.bits} bits of 256"
        console.print(
            one_line(f"{content.names[pair.first]} and {content.names[pair.second]} {what}.")
        )
    if not pairs:
        console.print("No image looks like one of another patient.")
        return
    console.print(
        "These stand under two patient identifiers, but privacy is counted per patient. If the "
        "images are of one person, give both lines the same patient_id; if one is filed "
        "wrongly, correct or remove its line."
    )
    if any(pair.exact for pair in pairs):
        console.print("A node refuses this folder until no picture stands under two identifiers.")
        raise typer.Exit(1)
