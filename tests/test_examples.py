"""The notebooks of `examples/` run and show pictures; worlds and sessions show themselves."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from session_worlds import wild_world

from magrathea import Session
from magrathea.display import MIN_HEIGHT, picture_grid

EXAMPLES = Path(__file__).parents[1] / "examples"


def outputs_of(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """The data of one MIME type among the outputs of all cells."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def as_array(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


def run_notebook(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "Commit the notebook without outputs."
    resources = {"metadata": {"path": str(EXAMPLES)}}
    return NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_notebook_of_uses_runs() -> None:
    notebook = run_notebook("uses.ipynb")
    pictures = [as_array(base64.b64decode(png)) for png in outputs_of(notebook, "image/png")]
    real, imagined, dreamt = pictures
    assert np.array_equal(real, imagined) and not np.array_equal(real, dreamt)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_notebook_runs_and_shows_frames() -> None:
    notebook = run_notebook("dream.ipynb")
    pictures = [as_array(base64.b64decode(png)) for png in outputs_of(notebook, "image/png")]
    assert len(pictures) == 5 and pictures[-1].shape[1] > 2 * pictures[0].shape[1]
    assert len({picture.tobytes() for picture in pictures}) == 5
    (table,) = outputs_of(notebook, "text/html")
    assert "minigrid" in table and "data:image/png;base64," in table


def test_session_shows_the_picture_of_every_dream() -> None:
    session = Session(wild_world(), batch_size=3, seed=0)
    png = session._repr_png_()
    assert png is not None
    shown, picture = as_array(png), session.observation
    factor = -(-MIN_HEIGHT // picture.shape[1])
    height, width = picture.shape[1] * factor, picture.shape[2] * factor
    assert shown.shape == (2 * height + 4, 2 * width + 4, 3)
    for index, (top, left) in enumerate([(0, 0), (0, width + 4), (height + 4, 0)]):
        part = shown[top : top + height : factor, left : left + width : factor]
        assert np.array_equal(part, picture[index])
    assert (shown[height + 4 :, width + 4 :] == 255).all()


def test_grid_of_pictures_is_about_square() -> None:
    assert picture_grid(np.zeros((9, 130, 10, 3), np.uint8), gap=2).shape == (394, 34, 3)


def test_world_shows_itself_with_escaped_text_and_a_start() -> None:
    world = wild_world(seed=1)
    world.metadata.update(name="<script>", description='"a" & b')
    table = world._repr_html_()
    assert "<script>" not in table and "&lt;script&gt;" in table and "&quot;a&quot; &amp; b" in table
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', table)
    assert as_array(base64.b64decode(data)).shape[-1] == 3
    assert f"{world.layout.num_tokens} tokens" in table and str(world.action_space) in table
