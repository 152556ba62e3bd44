"""Packages that people mean when they write another name: an index cannot be asked for names that are near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Packages that people know by the name that they import.
_IMPORTED_AS = {
    "attr": "attrs",
    "bio": "biopython",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "igraph": "python-igraph",
    "mpl-toolkits": "matplotlib",
    "openbabel": "openbabel-wheel",
    "pil": "pillow",
    "pylab": "matplotlib",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "usb": "pyusb",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
#: Packages that research uses, as they are spelled.
_KNOWN = (  # noqa: SIM905 - one line a name would be a page
    "astropy biopython bokeh cython dask einops fastapi flask gensim geopandas gymnasium h5py hydra-core "
    "imageio ipykernel ipython jax jinja2 joblib jupyter jupyterlab keras lightning lxml matplotlib "
    "mpi4py mujoco nbconvert netcdf4 networkx nibabel nltk numba numexpr numpy omegaconf opencv-python "
    "openpyxl optuna packaging pandas pillow plotly polars psutil pyarrow pydantic pymc pyproj pytest "
    "pyyaml pyzmq rasterio requests rich scikit-image scikit-learn scipy seaborn shapely spacy sqlalchemy "
    "statsmodels sympy tables tensorboard tensorflow torch torchaudio torchvision tqdm transformers wandb "
    "xarray xgboost zarr "
).split()


def meant(name: str, others: Iterable[str] = ()) -> str:
    """A hint with the package that ``name`` may stand for, of ``others`` and those known here; else empty."""
    near = next(iter(difflib.get_close_matches(_plain(name), sorted({*_KNOWN, *others}), n=1)), None)
    return imported_as(name) or (f'did you mean "{near}"?' if near else "")


def imported_as(name: str) -> str:
    """A hint with the package that is imported as ``name``, where its own name is another; else empty."""
    package = _IMPORTED_AS.get(_plain(name))
    return f'did you mean "{package}"?' if package else ""


def package_of(module: str) -> str:
    """The package that brings the module of that name."""
    return _IMPORTED_AS.get(_plain(module), module.replace("_", "-"))


def is_known(name: str) -> bool:
    """Whether a Python package of that name is among those that research uses."""
    return _plain(name) in _KNOWN or _plain(name) in _IMPORTED_AS.values()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
