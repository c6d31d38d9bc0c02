"""A workdir in an object store: s3://BUCKET/PATH, gs://.., az://..

A run appends to files, renames folders and locks them, which no object store can; so it lives on the local disk, and
what is whole there follows into the store in the background, file by file under the same names. A checkpoint's seal is
sent last and removed first: what lies in the store without one was never committed, and is passed over. Whoever goes on
elsewhere begins with what the store has. The library is obstore: one wheel without dependencies, for all three clouds;
credentials are those of the environment or of the machine.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError
from nca_gen.io import cache, write

EVERY = 20.0  # seconds between two looks at what is new
PATIENCE = 60.0  # seconds in which the last files must be sent
WRITER = ".writer"  # of the store: which folder a run is trained in
RECORD = ".mirror.json"  # of the folder: its name, and what is known to be in the store
OURS = re.compile(r"\.lock|\.mirror\.json|\.\d+\..+|\.writable-.*|.*-tmp")  # not of the run, or not whole yet
CHECKPOINT = re.compile(r"(?:.*/)?checkpoints/\d+/")
SEAL = "seal.json"
State = dict[str, list]
"""Path -> [bytes, time of change] of a file; of one that is in the store also its tag there."""


def remote(path: Any) -> bool:
    """Whether ``path`` is of an object store."""
    return re.match(r"(s3|gs|az)://", str(path)) is not None


def is_mirror(folder: Path) -> bool:
    """Whether ``folder`` follows into an object store."""
    return (folder / RECORD).is_file()


@contextmanager
def place(workdir: Any, trains: bool = False) -> Generator[Any, None, None]:
    """Yields the local folder of ``workdir``, which is brought up to date first and follows into the store; any other
    workdir as it is.

    ``trains``: as the one that writes the run. Where the store cannot be reached in between, work goes on, and is sent
    later. Raises UserError where it cannot be opened, where two have gone on with one run, and where at the end
    something is not sent.
    """
    if not remote(workdir):
        yield workdir
        return
    mirror = Mirror(str(workdir).rstrip("/"), trains)
    mirror.fetch()
    end = threading.Event()
    follower = threading.Thread(target=mirror.follow, args=(end,), daemon=True)
    follower.start()
    try:
        yield str(mirror.folder)
    finally:
        end.set()
        follower.join()
        lost = mirror.finished()
        if lost and sys.exception() is not None:  # whose exit code is to stay
            tell(f"error: {lost}")
    if lost:
        raise UserError(lost)


def fetched(path: Any) -> Any:
    """``path``, or if it is of an object store the local folder of it, brought up to date."""
    if not remote(path):
        return path
    mirror = Mirror(str(path).rstrip("/"), trains=False)
    mirror.fetch()
    return str(mirror.folder)


class Mirror:
    """A folder of this machine and its place ``url`` in a store."""

    def __init__(self, url: str, trains: bool):
        self.url, self.trains = url, trains
        self.folder = cache.folder("runs", f"{url.rsplit('/')[-1]}-{cache.key(url)}")
        self.store = opened(url)
        with write.refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RECORD
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        self.name: str = known.get("name", uuid.uuid4().hex)
        self.sent: State = known.get("sent", {})
        self.away = self.replaced = False

    def note(self) -> None:
        """Writes down what is in the store."""
        write.facts(self.folder / RECORD, {"url": self.url, "name": self.name, "sent": self.sent})

    def listing(self) -> dict[str, str]:
        """Path -> tag of what is in the store."""
        return {item["path"]: item["e_tag"] for page in library().list(self.store) for item in page}

    def writer(self) -> str:
        """The name of the folder that wrote last; "" for none."""
        try:
            return bytes(library().get(self.store, WRITER).bytes()).decode()
        except FileNotFoundError:
            return ""

    def fetch(self) -> None:
        """Brings the folder up to date, and with ``trains`` makes it the one that is written from.

        What this folder wrote last is not fetched: the folder is ahead. Raises UserError where both are.
        """
        with reached(self.url):
            there, mine = self.listing(), self.writer() == self.name
            sealed = whole(there)
            here = files(self.folder)
            ahead = {path for path in here if here[path] != self.sent.get(path, [])[:2]}
            behind = [p for p in sealed if p not in here or (not mine and there[p] != self.sent.get(p, [0, 0, ""])[2])]
            behind = [p for p in behind if p != WRITER and not (mine and p in self.sent)]
            gone = [] if mine else [p for p in self.sent if p not in there and p in here]
            if both := sorted(ahead & {*behind, *gone}):
                raise UserError(
                    f"{self.url} and its folder {self.folder} have both gone on ({both[0]}): remove the one "
                    "that is not to be gone on with"
                )

            def get(path: str) -> None:
                target = self.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with write.whole(target) as draft, draft.open("wb") as file:
                    for block in library().get(self.store, path).stream():
                        file.write(block)
                self.sent[path] = [*state(target), there[path]]

            for path in gone:
                (self.folder / path).unlink()
                del self.sent[path]
            each(get, behind, self.note)
            if self.trains:
                library().put(self.store, WRITER, self.name.encode())
                library().delete(self.store, [p for p in there if p not in sealed])
        if behind:
            tell(f"fetched {len(behind)} files of {self.url} to {self.folder}")

    def push(self) -> None:
        """Sends what is new, and removes from the store what was sent and is no more.

        Raises UserError where another run has begun to write there.
        """
        self.replaced = self.trains and self.writer() != self.name
        if self.replaced:
            raise UserError(f"another run writes to {self.url}: nothing more is sent there from {self.folder}")
        here = files(self.folder)
        new = [path for path in here if here[path] != self.sent.get(path, [])[:2]]
        gone = [path for path in self.sent if path not in here]
        vanished: set[str] = set()

        def put(path: str) -> None:
            if group(path) in vanished:
                return
            try:
                before = state(self.folder / path)
                tag = library().put(self.store, path, self.folder / path)["e_tag"]
                self.sent[path] = [*before, tag]
            except FileNotFoundError:  # removed meanwhile; its checkpoint must have no seal
                vanished.add(group(path))

        def remove(path: str) -> None:
            library().delete(self.store, path)
            self.sent.pop(path)

        for rank in range(3):
            each(put, [path for path in new if order(path) == rank], self.note)
        each(remove, [path for path in gone if order(path) == 2], self.note)
        each(remove, [path for path in gone if order(path) < 2], self.note)

    def follow(self, end: threading.Event) -> None:
        """Pushes now and then until ``end``; says when the store is away, and when it is back."""
        while not end.wait(EVERY):
            self.attempt()

    def attempt(self) -> str:
        """What has kept a push from succeeding; "" where nothing has."""
        try:
            with reached(self.url):
                self.push()
        except UserError as e:
            if not self.away:
                tell(f"{e}; work goes on in {self.folder}")
            self.away = True
            return str(e)
        if self.away:
            tell(f"{self.url} is up to date again")
        self.away = False
        return ""

    def finished(self) -> str:
        """Sends the rest. Returns what to say where that cannot be done in time."""
        last = time.monotonic() + PATIENCE
        while (why := self.attempt()) and not self.replaced and time.monotonic() < last:
            time.sleep(min(5.0, PATIENCE))
        return why and f"{why}; what is not sent lies in {self.folder}, and the same command sends it"


def library() -> Any:
    """obstore, which not every installation has."""
    try:
        import obstore.store
    except ModuleNotFoundError as e:
        raise UserError(
            "a workdir in an object store needs the library obstore: pip install obstore, or give a folder as --workdir"
        ) from e
    return obstore


def opened(url: str, **settings: Any) -> Any:
    """The store of ``url``; ``settings`` are of obstore."""
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    client = {"allow_http": plain, "connect_timeout": "10s"}
    with reached(url):
        return library().store.from_url(url, client_options=client, retry_config={"max_retries": 3}, **settings)


SIGNS = {  # of what a store says, what to do
    r"NoSuchBucket|bucket does not exist|code: 404": "there is no such bucket: make it, or correct --workdir",
    r"169\.254\.169\.254|computeMetadata": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_ACCOUNT_KEY, or run on a machine with a role",
    r"code: 40[13]|AccessDenied|InvalidAccessKey|Signature|Unauth|Permission|credential|decode": "the credentials "
    "are not accepted: correct them, or the rights of their account",
    r"redirect|region": "the bucket is in another region: set AWS_REGION",
    r"recognise URL": "no such place: write s3://BUCKET/PATH, gs://.. or az://..",
    r"error sending request|dns|connect|timed? ?out": "it cannot be reached: no network, or another endpoint",
}


@contextmanager
def reached(url: str) -> Generator[None, None, None]:
    """Turns what the store ``url`` refuses into a UserError of one line."""
    try:
        yield
    except Exception as e:
        if not type(e).__module__.startswith("obstore"):
            raise
        line = str(e).splitlines()[0]  # below it are pages for developers
        advice = next((advice for sign, advice in SIGNS.items() if re.search(sign, line, re.IGNORECASE)), line)
        raise UserError(f"{url}: {advice}") from e


def files(folder: Path) -> State:
    """What of ``folder`` is whole and belongs to the run."""
    found: State = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not OURS.fullmatch(name)]
        for name in names:
            path = Path(root, name)
            if not OURS.fullmatch(name) and path.is_file():
                found[path.relative_to(folder).as_posix()] = state(path)
    return found


def state(path: Path) -> list:
    """What tells that ``path`` has changed."""
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def group(path: str) -> str:
    """The checkpoint that ``path`` is of; itself for any other file."""
    found = CHECKPOINT.match(path)
    return found[0] if found else path


def whole(paths: Iterable[str]) -> list[str]:
    """``paths`` without those of checkpoints that have no seal; seals last."""
    sealed = {group(path) for path in paths if path.endswith(f"/{SEAL}")}
    return sorted((p for p in paths if group(p) == p or group(p) in sealed), key=order)


def order(path: str) -> int:
    """When a file is sent: a curve before the checkpoint to which it leads, a seal when all that it seals is there."""
    return 0 if group(path) == path else 2 if path.endswith(f"/{SEAL}") else 1


def each(do: Callable[[str], None], paths: Iterable[str], note: Callable[[], None]) -> None:
    """Does it for all ``paths``, several at a time, and notes what is done, also where one fails."""
    paths = [*paths]
    if not paths:
        return
    try:
        with ThreadPoolExecutor(8) as pool:
            [*pool.map(do, paths)]
    finally:
        note()


def tell(text: str) -> None:
    """One line beside whatever else is printed, from the first process only."""
    if os.environ.get("JAX_PROCESS_ID", "0") == "0":
        print(text, file=sys.stderr, flush=True)
