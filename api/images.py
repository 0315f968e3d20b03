"""Images of trials: what a configuration made, beside its numbers. A few small ones each, kept in the database.

Only PNG, JPEG and WebP, told from their first bytes, whatever the request calls them; they are answered with a policy
under which a browser shows them and does nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlmodel import col, delete, func, select

from suffice.optimizer import Conflict, InvalidInput, NotFound

from .database import Database
from .deps import Name, Number, PartsDep, Router
from .errors import problems
from .store import by_id
from .tables import ImageRow
from .wire import Wire

MOST_BYTES = 2**20
MOST_IMAGES = 8  # of a trial
CONTENT = {f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("png", "jpeg", "webp")}
HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}

router = Router(prefix="/v1/studies/{name}/trials/{number}/images", tags=["trials"])
ImageName = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$", description="Letters, digits, dots, dashes, underscores")
]


class ImageOut(Wire):
    name: str
    type: str
    bytes: int


class ImagesOut(Wire):
    """The images of a trial, by name."""

    images: list[ImageOut]


def kind_of(data: bytes) -> str | None:
    """The type of an image by its first bytes; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


@router.get("", responses=problems(404, 422), summary="List a trial's images")
def list_images(parts: PartsDep, name: Name, number: Number) -> ImagesOut:
    study = parts.study(name)
    parts.store.trial(study.id, number)
    with parts.store.database.read() as session:
        query = select(ImageRow.name, ImageRow.type, func.length(ImageRow.data))
        query = query.where(ImageRow.study_id == study.id, ImageRow.number == number).order_by(col(ImageRow.name))
        return ImagesOut(images=[ImageOut(name=n, type=kind, bytes=size) for n, kind, size in session.exec(query)])


@router.put(
    "/{image}",
    status_code=204,
    response_class=Response,
    responses=problems(404, 409, 422),
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
    summary="Attach an image to a trial",
)
async def put_image(request: Request, parts: PartsDep, name: Name, number: Number, image: ImageName) -> Response:
    """PNG, JPEG or WebP of up to 1 MiB, up to 8 of a trial; one of the same name is replaced.

    Best before the trial is told: then whoever watches the study sees it with the result.
    """
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise InvalidInput("body", f"an image of at most {MOST_BYTES} bytes", f"more than {MOST_BYTES} bytes")
    kind = kind_of(data)
    if kind is None:
        raise InvalidInput("body", "an image: PNG, JPEG or WebP", repr(data[:12]))
    study = await run_in_threadpool(parts.study, name)
    await run_in_threadpool(parts.store.trial, study.id, number)
    await run_in_threadpool(_keep, parts.store.database, study.id, number, image, kind, data)
    return Response(status_code=204)


def _keep(database: Database, study_id: int, number: int, name: str, kind: str, data: bytes) -> None:
    own = (ImageRow.study_id == study_id, ImageRow.number == number)
    with database.write() as session:
        by_id(session, study_id, lock=True)  # two that come at once follow each other
        session.exec(delete(ImageRow).where(*own, ImageRow.name == name))  # type: ignore[arg-type]
        if session.exec(select(func.count()).select_from(ImageRow).where(*own)).one() >= MOST_IMAGES:
            raise Conflict(f"the trial has {MOST_IMAGES} images already")
        row = ImageRow(study_id=study_id, number=number, name=name, type=kind, data=data, created_at=datetime.now(UTC))
        session.add(row)


@router.get(
    "/{image}",
    response_class=Response,
    responses={200: {"content": CONTENT}, **problems(404, 422)},
    summary="Read an image",
)
def read_image(parts: PartsDep, name: Name, number: Number, image: ImageName) -> Response:
    study = parts.study(name)
    with parts.store.database.read() as session:
        row = session.get(ImageRow, (study.id, number, image))
    if row is None:
        raise NotFound(f"trial {number} has no image {image!r}")
    return Response(row.data, headers=HEADERS, media_type=row.type)


def names_of(database: Database, study_id: int) -> Mapping[int, list[str]]:
    """The names of a study's images, by trial."""
    found: dict[int, list[str]] = {}
    with database.read() as session:
        query = select(ImageRow.number, ImageRow.name).where(ImageRow.study_id == study_id)
        for number, name in session.exec(query.order_by(col(ImageRow.number), col(ImageRow.name))):
            found.setdefault(number, []).append(name)
    return found
