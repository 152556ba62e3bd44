"""Vaults as places where inputs can be had: folders and tars of this machine, and repositories of a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from reprobox.digest import sha256
from reprobox.download.transfer import Location, Watch
from reprobox.errors import FetchError, IntegrityError, ReproboxError
from reprobox.image import LAYER_TYPE, Descriptor
from reprobox.lock import Input
from reprobox.oci.layer_tar import unpack_layer
from reprobox.oci.registry import Registries
from reprobox.oci.remote import SEAL, Offer, Wanted
from reprobox.store import Store
from reprobox.vault.documents import Kept, read_kept
from reprobox.vault.remote import is_registry, reference_of
from reprobox.vault.shelf import BLOBS, open_shelf, whole
from reprobox.vault.write import locks_of, read_vault_index

_LARGEST = 16 << 20  # bytes of a signed list


class LocalVault:
    """A vault on this machine. Opening it reads its index, and raises what is wrong with that."""

    def __init__(self, path: Path) -> None:
        self._shelf = open_shelf(path.absolute())
        self._index = read_vault_index(self._shelf)
        self.name = f"the vault {path}"

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """A place for each: what the vault lacks, it says so itself, and whose it is."""
        uri = self._shelf.path.as_uri()
        return {
            item.sha256: [
                Location(
                    url=f"{uri}#{item.sha256}",
                    label=self.name,
                    make=partial(self._copy, item.sha256),
                    ask=partial(self._size, item.sha256),
                )
            ]
            for item in inputs
        }

    # -- built layers

    trust = SEAL  # a tar in a vault has the name of its hash, and only a seal says which hash a layer has

    def offers(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Offer | ReproboxError | None]]:
        """The built layers that it keeps, as the seal names them: by the hash of their tar."""
        for item in wanted:
            size = self._shelf.size(BLOBS + item.diff_id) if item.diff_id else None
            yield item, None if size is None else _offer(item, size)

    def take(self, store: Store, offer: Offer, output: Path, epoch: int, watch: Watch) -> dict[str, Any]:
        """Make the new folder ``output`` the layer. Raises :class:`IntegrityError` for damaged bytes."""
        with store.scratch() as folder:
            tar = folder / "layer.tar"
            with tar.open("xb") as file:

                def write(data: bytes) -> None:
                    file.write(data)
                    watch.advance(len(data))

                self._copy(offer.diff_id, write, watch)
            output.mkdir(mode=0o755)
            unpack_layer(tar, output, diff_id=offer.diff_id, size=offer.size, epoch=epoch)
        return {"diff_id": offer.diff_id, "size": offer.size, "dropped": [], "remote": self.name}

    # -- what else it has

    def document(self, digest: str) -> bytes:
        """A small file of it that is no input, by sha256 hex; empty where it has none."""
        try:
            data = whole(self._shelf, BLOBS + digest, _LARGEST)
        except IntegrityError:
            return b""
        return data if sha256(data) == digest else b""

    def _size(self, digest: str) -> int:
        size = self._shelf.size(BLOBS + digest)
        if size is None:
            raise FetchError(self._lack(digest), where=self.name)
        return size

    def _copy(self, digest: str, write: Callable[[bytes], None], _: Watch) -> None:
        pieces = self._shelf.read(BLOBS + digest)
        while piece := self._next(digest, pieces):
            write(piece)

    def _next(self, digest: str, pieces: Iterator[bytes]) -> bytes:
        try:
            return next(pieces, b"")
        except FileNotFoundError:
            raise FetchError(self._lack(digest), where=self.name) from None
        except IntegrityError as error:
            raise IntegrityError(error.message, where=self.name) from None
        except OSError as error:
            raise FetchError(f"it cannot be read: {error.strerror}", where=self.name) from None

    def _lack(self, digest: str) -> str:
        if any(part.digest == digest for kept in self._locks for part in kept.parts):
            return "its blob is missing, although the index names it: the vault is damaged"
        for kept in self._locks:
            if digest in kept.left_out:
                return f"it was left out: {kept.left_out[digest]}"
        whose = ", ".join(kept.shown for kept in self._locks[:3]) + (" and others" if len(self._locks) > 3 else "")
        return f"it does not have it; it was made for {whose}" if whose else "it is empty"

    @cached_property
    def _locks(self) -> Sequence[Kept]:
        return locks_of(self._shelf, self._index)


def _offer(wanted: Wanted, size: int) -> Offer:
    blob = Descriptor(media_type=LAYER_TYPE, digest=wanted.diff_id, size=size)
    return Offer(layer=wanted.id, diff_id=wanted.diff_id, size=size, blob=blob)


class RegistryVault:
    """A vault that was pushed to a registry: ``oci://registry/name[:tag]``. Its manifest says what it has."""

    def __init__(self, text: str, registries: Registries) -> None:
        self._reference = reference_of(text)
        self._registries = registries
        self.name = f"the vault {text}"

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """The blobs that its manifest names. Raises :class:`FetchError` where the registry does not answer."""
        repository = self._registries.repository(self._reference)
        return {item.sha256: repository.locations(item.sha256, "") for item in inputs if item.sha256 in self._digests}

    @cached_property
    def _digests(self) -> frozenset[str]:
        data = self._registries.repository(self._reference).document(self._reference)
        return frozenset(part.digest for part in read_kept(data, self.name).parts)


Vault = LocalVault | RegistryVault


def open_vault(text: str, registries: Registries) -> Vault:
    """The vault that an option or a setting names: a path, or ``oci://…``.

    Raises :class:`UsageError` where there is none, and :class:`IntegrityError` where its index is damaged.
    """
    if is_registry(text):
        return RegistryVault(text, registries)
    return LocalVault(Path(text).expanduser())


def open_configured(texts: Sequence[str], registries: Registries, say: Callable[[str], None]) -> list[Vault]:
    """The vaults of the settings; those that cannot be used are told, and done without."""
    found = []
    for text in texts:
        try:
            found.append(open_vault(text, registries))
        except ReproboxError as error:
            say(f"warning: the vault {text} is left out: {error.message}")
    return found


def in_order(given: Sequence[Vault], configured: Sequence[Vault]) -> tuple[tuple[Vault, ...], tuple[Vault, ...]]:
    """Those that are asked before all other places, and those that are asked last: a registry is far away."""
    near = tuple(vault for vault in configured if isinstance(vault, LocalVault))
    return (*given, *near), tuple(vault for vault in configured if vault not in near)
