# SPDX-License-Identifier: Apache-2.0
"""
Whose archive it is: reading the newest manifest, and creating the next one.

The store creates an object once. So of all that want to create manifest n + 1, one succeeds, and everybody else learns
of it. Manifests that are older than the newest ones are removed, and one that was removed could be created again by an
archiver that had slept for long. Therefore whoever has created a manifest looks whether there is a greater number, and
only if there is none was it the next one. The greatest number is never removed, so it is always seen.

A request whose answer was lost is asked for: the manifest of that number is ours if it has our token.
"""

from __future__ import annotations

from collections.abc import Callable

from wal._errors import FencedError

from .errors import ArchiveDamagedError, ArchiveStoreError
from .manifest import Manifest, Owner, manifest_name, manifest_number
from .objects import Objects

__all__ = ["advance", "fenced_by", "newest_manifest", "overlooked_manifest", "take_over"]

_KEPT = 10
"""How many manifests are kept, so that a listing that is made of parts has one of them at least."""


def newest_manifest(objects: Objects) -> Manifest | None:
    """
    Return the manifest that counts; ``None`` if there is none at all.

    Raises:
        ArchiveDamagedError: It is not as it was written.
    """
    missing: int | None = None
    while True:
        number = max(_numbers(objects), default=None)
        if number is None:
            return None
        found = _read(objects, number)
        if found is not None:
            return found
        if number == missing:
            raise ArchiveDamagedError(objects.place, manifest_name(number), "it is listed, but cannot be read")
        missing = number  # its owner has gone on, and removed it, since it was listed


def overlooked_manifest(objects: Objects, uploaded: set[str]) -> Manifest | None:
    """
    Return the manifest that has been made since we found none; ``None`` if there is no archive.

    Args:
        objects: Where to look.
        uploaded: What was uploaded to the archive, listed after we looked for a manifest.

    Raises:
        ArchiveDamagedError: Something was, and no manifest names it.
    """
    if not uploaded:
        return None
    found = newest_manifest(objects)
    if found is None:
        raise ArchiveDamagedError(
            objects.place, "manifest", f"there is no manifest, but {min(uploaded)} and maybe more"
        )
    return found


def _numbers(objects: Objects) -> list[int]:
    numbers = (manifest_number(name) for name in objects.names("manifest"))
    return [number for number in numbers if number is not None]


def _read(objects: Objects, number: int) -> Manifest | None:
    name = manifest_name(number)
    data = objects.read(name)
    if data is None:
        return None
    try:
        manifest = Manifest.decode(data)
    except ValueError as error:
        raise ArchiveDamagedError(objects.place, name, str(error)) from None
    if manifest.number != number:
        raise ArchiveDamagedError(objects.place, name, f"it is manifest {manifest.number}, under another's name")
    return manifest


def take_over(objects: Objects, owner: Owner, make: Callable[[Manifest | None], Manifest]) -> Manifest:
    """
    Become the owner of an archive.

    Args:
        objects: The archive.
        owner: Who takes over.
        make: Makes the manifest that is to follow the newest one, or raises why it must not.

    Returns:
        The manifest that counts now, which is ours.

    Raises:
        FencedError: Somebody else took over at the same time, and was later.
    """
    refused: int | None = None
    while True:
        wanted = make(newest_manifest(objects))
        if wanted.number == refused:
            raise ArchiveStoreError(
                objects.place, f"{manifest_name(refused)} exists, but is not listed: the store is not consistent"
            )
        if objects.create(manifest_name(wanted.number), wanted.encode()):
            break
        there = _read(objects, wanted.number)
        if there is not None and there.owner == owner:
            break  # our own request, repeated by the store's client
        refused = wanted.number  # another one was faster; it is the newest now
    _confirm(objects, wanted.number)
    return wanted


def advance(objects: Objects, wanted: Manifest) -> Manifest:
    """
    Create the next manifest.

    Returns:
        The manifest that counts now. It is not ``wanted`` if an earlier try, whose answer was lost, was carried out.

    Raises:
        FencedError: Somebody else has taken over.
        ArchiveStoreError: The store did not answer; whether the manifest exists is not known. Try again.
    """
    if not objects.create(manifest_name(wanted.number), wanted.encode()):
        there = _read(objects, wanted.number)
        if there is None:
            # It has been created and removed meanwhile: then there is a greater one.
            _confirm(objects, wanted.number)
            raise ArchiveDamagedError(objects.place, manifest_name(wanted.number), "it exists, but cannot be read")
        if there.owner != wanted.owner:
            raise fenced_by(objects, there)
        wanted = there
    _confirm(objects, wanted.number)
    return wanted


def _confirm(objects: Objects, number: int) -> None:
    """Make sure that no greater manifest exists; remove those that nobody needs any more."""
    numbers = _numbers(objects)
    if max(numbers, default=0) > number:
        newest = newest_manifest(objects)
        assert newest is not None, "the greatest manifest is never removed"
        raise fenced_by(objects, newest)
    for old in sorted(numbers)[:-_KEPT]:
        try:
            objects.delete(manifest_name(old))
        except ArchiveStoreError:
            return  # it does no harm, and may be forbidden on purpose


def fenced_by(objects: Objects, manifest: Manifest) -> FencedError:
    """Return the error that says who has taken over."""
    return FencedError(
        f"{objects.place}: {manifest.owner} has taken over this archive, as owner number {manifest.epoch}; archive the"
        " log from one place alone"
    )
