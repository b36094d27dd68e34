"""Sessions: a video and what was shown on it. The front's own: one JSON file each under state_dir/sessions, written whole or not at all."""

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from supervisor.front.problems import Refusal, of_disk
from supervisor.front.shapes_in import PromptBody
from supervisor.front.shapes_out import SessionView

_ID: Final = re.compile(r"s-[0-9a-z]{10}")
_LOCKS: Final = 64
_KEY_S: Final = 86_400.0
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"


class Session(Struct, frozen=True, kw_only=True):
    """A session as it is stored. jobs: its propagations with their folders, the oldest first. fingerprint: of what was asked for under its idempotency key."""

    id: str
    created_at: str
    video: str
    name: str
    uploaded: bool
    size_bytes: int
    fingerprint: str = ""
    prompts: list[PromptBody] = []
    jobs: list[tuple[str, str]] = []

    def view(self) -> SessionView:
        """Return what people see of it."""
        names = [job for job, _folder in self.jobs]
        return SessionView(
            session_id=self.id,
            created_at=self.created_at,
            video=self.video,
            name=self.name,
            uploaded=self.uploaded,
            size_bytes=self.size_bytes,
            prompts=self.prompts,
            jobs=names,
            job_id=names[-1] if names else None,
        )


class Sessions:
    """All sessions. Nothing is kept in memory but who is writing, so that they survive any restart."""

    def __init__(self, state_dir: Path) -> None:
        """Keep them in these folders."""
        self._folder = state_dir / "sessions"
        self._uploads = state_dir / "uploads"
        self._keys = state_dir / "sessions" / "keys"
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    def sweep(self) -> None:
        """Remove uploads that belong to no session (the front ended before they were whole, or before they were used), and old idempotency keys."""
        for folder in self._uploads.glob("*"):
            if not (self._folder / folder.name / "session.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
        for file in self._keys.glob("*"):
            if time.time() - file.stat().st_mtime > _KEY_S:
                file.unlink(missing_ok=True)

    def new_id(self) -> str:
        """Return an id that nobody has."""
        return "s-" + "".join(secrets.choice(_LETTERS) for _ in range(10))

    def upload_folder(self, name: str) -> Path:
        """Return where the upload of a session lies."""
        return self._uploads / name

    async def create(self, name: str, *, video: Path, title: str, uploaded: bool, key: str, fingerprint: str) -> Session:
        """Return a new session, or the one that was made under this key. Raises Refusal (422) when that was asked for something else."""
        async with self._writing(f"key {key}" if key else name):
            if key and (known := await asyncio.to_thread(self._by_key, key)):
                if known.fingerprint != fingerprint:
                    raise Refusal(422, "invalid", "this Idempotency-Key made another session before: use a new key for another video")
                return known
            size = (await asyncio.to_thread(video.stat)).st_size
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            made = Session(id=name, created_at=now, video=str(video), name=title, uploaded=uploaded, size_bytes=size, fingerprint=fingerprint)
            await asyncio.to_thread(self._save, made)
            if key:
                await asyncio.to_thread(_write, self._key_file(key), made.id.encode())
            return made

    async def find(self, name: str) -> Session:
        """Return a session. Raises Refusal (404)."""
        found = await asyncio.to_thread(self._load, name)
        if found is None:
            raise Refusal(404, "unknown", f"no session {name[:60]!r} is known: make one with POST /sessions")
        return found

    async def change(self, name: str, how: Callable[[Session], Session]) -> Session:
        """Return the session once its change is on disk. Raises Refusal (404)."""
        async with self._writing(name):
            changed = how(await self.find(name))
            await asyncio.to_thread(self._save, changed)
            return changed

    async def remove(self, name: str) -> None:
        """Forget a session, and its video if it was uploaded. Raises Refusal (404)."""
        async with self._writing(name):
            await self.find(name)
            for folder in (self._folder / name, self.upload_folder(name)):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    @asynccontextmanager
    async def kept_as(self, name: str, what: str) -> AsyncIterator[Path]:
        """Yield the folder of an upload: under a name that the same `what` always gives, so that the same request names the same path. Empty: as it is."""
        if not what:
            yield self.upload_folder(name)
            return
        same = f"same-{sha256(what.encode()).hexdigest()[:24]}"
        await self.discard(same)
        await asyncio.to_thread(self.upload_folder(name).rename, self.upload_folder(same))
        try:
            yield self.upload_folder(same)
        finally:
            await self.discard(same)

    async def discard(self, name: str) -> None:
        """Remove an upload that became no session."""
        await asyncio.to_thread(shutil.rmtree, self.upload_folder(name), ignore_errors=True)

    def _writing(self, name: str) -> asyncio.Lock:
        """Return the lock that whoever changes this one must hold."""
        return self._locks[hash(name) % len(self._locks)]

    def _load(self, name: str) -> Session | None:
        if not _ID.fullmatch(name):
            return None
        try:
            return msgspec.json.decode((self._folder / name / "session.json").read_bytes(), type=Session)
        except FileNotFoundError:
            return None

    def _save(self, session: Session) -> None:
        _write(self._folder / session.id / "session.json", msgspec.json.encode(session))

    def _by_key(self, key: str) -> Session | None:
        try:
            return self._load(self._key_file(key).read_text())
        except FileNotFoundError:
            return None

    def _key_file(self, key: str) -> Path:
        return self._keys / sha256(key.encode()).hexdigest()


def with_prompts(session: Session, prompts: list[PromptBody], *, replace_all: bool) -> Session:
    """Return the session with these prompts too: the later one counts where an object is shown twice on a frame."""
    together = {(one.frame, one.object): one for one in (*(() if replace_all else session.prompts), *prompts)}
    return replace(session, prompts=list(together.values()))


def with_job(session: Session, job: str, folder: str) -> Session:
    """Return the session with this propagation as its last."""
    return session if any(known == job for known, _ in session.jobs) else replace(session, jobs=[*session.jobs, (job, folder)])


def _write(path: Path, data: bytes) -> None:
    """Put data into a file, whole or not at all, on disk when this returns. Raises Refusal where the disk is full."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise of_disk(error, "the session") from error
