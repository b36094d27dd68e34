"""`sam.propagate`: encodes each frame once into the spool (0-40 %), then follows the objects through it (40-100 %).

What an attempt leaves in the job's folder, and what the next one does with it:
- `features.spool`: used again as far as its records are whole and video, range, network and size are the same;
- `checkpoint`: the tracker's memory, every CHECKPOINT_EVERY_S, and at the next frame when the job is to leave (a pause, a recycling); the next attempt
  goes on after its frame, when the job and the network are the same and the masks up to there are all on disk; else the masks are removed and
  tracking starts over;
- `masks/`: stays, as it can be served while the job runs and after it failed or was cancelled.
The spool is removed when the job ends, whatever its end. It stays when the job is interrupted, for the next attempt.
"""

import hashlib
import shutil
import time
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from workers import masks, video
from workers.base import BadInput, Job, Report
from workers.sam.network import Network
from workers.sam.pace import Pace
from workers.sam.requests import PropagateParams, check_prompts, check_prompts_fit
from workers.sam.spool import Spool
from workers.sam.tracker import Encoder, Tracker
from workers.weights import WeightsError, open_checked

ENCODE_SHARE = 0.4
CHECKPOINT_EVERY_S = 15.0  # what a kill may cost; saving takes some milliseconds per object
SPOOL: Final = "features.spool"


class Propagator:
    """Runs propagation jobs on one network."""

    def __init__(self, network: Network, encoder: Encoder, *, checkpoint_every_s: float = CHECKPOINT_EVERY_S) -> None:
        """Keep the network, and the encoder made from it."""
        self._network = network
        self._encoder = encoder
        self._checkpoint_every_s = checkpoint_every_s

    def propagate(self, job: Job, report: Report) -> dict[str, Any]:
        """Return `{"frames", "objects", "size": [h, w], "masks_dir", "seconds", "fps", "reused"}`.

        frames: how many have masks now.  fps: frames of this attempt per second of it, both phases.
        reused: frames that an earlier attempt had done, by phase.  Raises BadInput, OSError.
        """
        began_s = time.monotonic()
        params: PropagateParams = job.params
        check_prompts(params)
        film = video.inspect(params.video, check=report.check)
        if params.first_frame >= film.frames:
            raise BadInput(f"first_frame = {params.first_frame} is not there: {film.path} has the frames 0 to {film.frames - 1}. Choose one of them.")
        end = film.frames if not params.max_frames else min(film.frames, params.first_frame + params.max_frames)
        check_prompts_fit(params, size=film.size, end=end)
        identity = f"{self._network.identity} | {film.facts} | from {params.first_frame}"
        path = job.dir / SPOOL
        with Spool(path, identity=identity, shapes=self._encoder.shapes, check=report.check) as spool:
            run = _Run(job, report, film=film, end=end, spool=spool, network=self._network, encoder=self._encoder, checkpoint_every_s=self._checkpoint_every_s)
            encoded = run.encode()
            tracked = run.track(_digest(identity, params))
        path.unlink()
        seconds = time.monotonic() - began_s
        frames = run.end - params.first_frame
        return {
            "frames": frames,
            "objects": sorted({prompt.object for prompt in params.prompts}),
            "size": list(film.size),
            "masks_dir": str(run.masks_dir),
            "seconds": round(seconds, 3),
            "fps": round((frames - tracked) / seconds, 3),
            "reused": {"encode": encoded, "propagate": tracked},
        }


class _Run:
    """One attempt at one job. `end` comes down when the video turns out to be shorter than its header says."""

    def __init__(
        self, job: Job, report: Report, *, film: video.Video, end: int, spool: Spool, network: Network, encoder: Encoder, checkpoint_every_s: float
    ) -> None:
        self.end = end
        self.masks_dir = job.dir / "masks"
        self._job = job
        self._params: PropagateParams = job.params
        self._first: int = self._params.first_frame
        self._report = report
        self._film = film
        self._spool = spool
        self._network = network
        self._encoder = encoder
        self._checkpoint_every_s = checkpoint_every_s

    def encode(self) -> int:
        """Fill the spool. Return how many frames an earlier attempt had left in it."""
        found = self._spool.frames
        wanted = self.end - self._first
        self._spool.require_room(wanted)
        pace = Pace("encode", self._report, done=found, total=wanted, start=0.0, share=ENCODE_SHARE)
        frames = video.read_frames(self._film, start=self._first + found, count=wanted - found, check=self._report.check)
        for frame in frames:
            self._spool.append(self._encoder.encode(frame))
            pace.step()
        if self._spool.frames < wanted:
            self.end = self._first + self._spool.frames
            print(f"encode: the video ends after {self.end} frames, its header says {self._film.frames}", flush=True)
            check_prompts_fit(self._params, size=self._film.size, end=self.end)
        return min(found, wanted)

    def track(self, digest: str) -> int:
        """Write the masks of each frame. Return how many an earlier attempt had done for good."""
        with Tracker(self._network, self._encoder, size=self._film.size, end=self.end, check=self._check) as tracker:
            start = self._recalled(tracker, digest)
            if start == self._first:
                shutil.rmtree(self.masks_dir, ignore_errors=True)
                self.masks_dir.mkdir()
                self._prompt(tracker)
            done = start - self._first
            pace = Pace("propagate", self._report, done=done, total=self.end - self._first, start=ENCODE_SHARE, share=1 - ENCODE_SHARE)
            saved_s = time.monotonic()
            self._report.will_checkpoint()
            for frame in range(start, self.end):
                found = tracker.track(frame, self._spool.read(frame - self._first))
                masks.save_frame(self.masks_dir, frame, size=self._film.size, objects=found)
                if self._report.checkpoint_wanted or time.monotonic() - saved_s >= self._checkpoint_every_s:
                    self._save(tracker, frame=frame, digest=digest)
                    saved_s = time.monotonic()
                pace.step()
        return done

    def _check(self) -> None:
        """Obey an order between two objects of a frame; one that wants a checkpoint waits for the end of the frame, where it can be saved."""
        if not self._report.checkpoint_wanted:
            self._report.check()

    def _prompt(self, tracker: Tracker) -> None:
        ordered = sorted(self._params.prompts, key=lambda prompt: (prompt.frame, prompt.object))
        for frame, prompts in groupby(ordered, key=lambda prompt: prompt.frame):
            self._report.check()
            tracker.prompt(frame, prompts, self._spool.read(frame - self._first))

    def _save(self, tracker: Tracker, *, frame: int, digest: str) -> None:
        """Save what the next attempt needs to go on after this frame."""
        path = self._job.dir / "tracker.partial"
        torch.save({"frame": frame, "digest": digest, "memory": tracker.memory()}, path)
        try:
            self._report.save_checkpoint(path)
        finally:
            path.unlink(missing_ok=True)

    def _recalled(self, tracker: Tracker, digest: str) -> int:
        """Return the frame to go on at: the one after the checkpoint's, or the first when there is no sound one."""
        checkpoint = self._job.resume_from
        if checkpoint is None:
            return self._first
        try:
            saved = open_checked(checkpoint)
        except WeightsError as error:
            print(f"propagate: the checkpoint is of no use, starting over ({error})", flush=True)
            return self._first
        if saved.get("digest") != digest:
            print("propagate: the checkpoint belongs to another video, network or request, starting over", flush=True)
            return self._first
        frame = int(saved["frame"])
        if not all(_is_there(masks.frame_file(self.masks_dir, number)) for number in range(self._first, frame + 1)):
            print("propagate: some masks before the checkpoint are missing, starting over", flush=True)
            return self._first
        tracker.recall(saved["memory"])
        print(f"propagate: going on after frame {frame}", flush=True)
        return frame + 1


def _digest(identity: str, params: PropagateParams) -> str:
    return hashlib.sha256(identity.encode() + msgspec.json.encode(params)).hexdigest()


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
