"""How the page answers: one visitor, thirty at once, more than it takes in, and a first visit.

    python -m benchmarks.page                     the phantom that ships
    python -m benchmarks.page --bundle FOLDER

Starts `app.py` in a process of its own, on this machine only and a free port, and ends it. Visitors
speak HTTP as gradio's script in a browser does: a change of a control is one request that joins the
queue and one that streams the answer, and the same again for what follows by itself (the map of
what carried the trial). A change counts as answered when all of that has arrived. Each visitor
takes the next picture, other repetitions, the next picture, any picture, other repetitions, another
subject, and so on. One visitor alone looks at each answer for a second; thirty at once don't. What
is measured is the server; the first view alone is measured in a Chromium with an empty cache, until
the cards, the map and the plot are drawn. Memory is what the process holds in RAM (VmRSS of
/proc/PID/status), after its first answer and in the end.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.encoder import machine
from benchmarks.recording import write
from benchmarks.table import Row, show
from nice_demo.errors import InputError, command
from nice_demo.montage import CHANNELS

ROOT = Path(__file__).parents[1]
PATIENCE = 30  # s, for any one answer; beyond that something is broken
START, MEMORY, ONE, MANY, VIEW = 6.0, 700, 100, 1000, 3.0  # s, MB, ms, ms, s: the limits
LOOK = 1.0  # s, of one visitor at each answer
RECORDING = 60.0, 1000.0  # s, Hz: what others have decoded meanwhile
CHANGES_OF_ONE, VISITORS, CHANGES_OF_EACH, FLOOD = 36, 30, 6, 200
CONTROLS = {
    "next picture": "picture",
    "any picture": "picture",
    "repetitions": "repetitions",
    "subject": "subject",
}
KINDS = ("next picture", "repetitions", "next picture", "any picture", "repetitions", "subject")
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip


# ---------------------------------------------------------------- the page in its own process


@dataclass(frozen=True)
class Page:
    """A page that is up.

    Attributes
    ----------
    address : str
    pid : int
    started : float
        From the start of the process to the first answer, s.
    """

    address: str
    pid: int
    started: float

    def memory(self) -> float | None:
        """Return what the process holds in RAM, MB; None where /proc isn't there."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        return int(re.search(r"VmRSS:\s*(\d+) kB", status).group(1)) / 1000

    def processor_time(self) -> float | None:
        """Return how long the process has kept processors busy, s; None without /proc."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return None
        user, system = status.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def page_of(bundle: Path) -> Iterator[Page]:
    """Start a page over a bundle, wait for its first answer, and end it afterwards."""
    call = [sys.executable, "app.py", "--bundle", str(bundle.resolve()), "--host", "127.0.0.1"]
    started = time.perf_counter()
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        says = process.stdout.readline()  # its end, if it fails
        found = re.search(r"http://\S+", says)
        if not found:
            raise InputError(f"app.py didn't start, it said {says!r}; run it by hand.")
        with contextlib.closing(_connection(found.group())) as connection:
            _answer(connection, "GET", "/")
        yield Page(found.group(), process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---------------------------------------------------------------- visitors


class RefusedError(Exception):
    """The page takes nobody in: the queue is full."""


def _connection(address: str) -> http.client.HTTPConnection:
    where = urlsplit(address)
    return http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: dict | None = None
) -> bytes:
    # As a browser's: gradio's script says who it is.
    headers = {"Content-Type": "application/json", "x-gradio-user": "app"}
    connection.request(method, path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status in (429, 503):
        raise RefusedError(json.loads(content)["detail"])
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
    return content


class Visitor:
    """What the page in a browser asks of the server when somebody uses it.

    Parameters
    ----------
    address : str
        Of the page.
    config : dict
        Its components and listeners, as it tells them; see `config_of`.
    seed : int
        Of what the visitor chooses.
    """

    def __init__(self, address: str, config: dict, seed: int = 0) -> None:
        self.connection = _connection(address)
        self.session, self.random = secrets.token_hex(6), random.Random(seed)
        self.listeners = [entry for entry in config["dependencies"] if entry["backend_fn"]]
        self.values = {c["id"]: c["props"].get("value") for c in config["components"]}
        controls = {c["props"].get("elem_id"): c for c in config["components"]}
        names = set(CONTROLS.values())
        self.controls = {name: controls[name]["id"] for name in names}
        self.choices = {
            name: [value for _, value in controls[name]["props"]["choices"]] for name in names
        }
        self.kinds = itertools.cycle(KINDS)
        self.updates = self.received = 0

    def open(self) -> None:
        """Do what the browser does when the page has come."""
        for listener in self.listeners:
            if any(event == "load" for _, event in listener["targets"]):
                self._run(listener)
        self.connection.close()  # as the server does soon; the next request opens it again

    def change(self) -> tuple[str, float, float]:
        """Change the next control to something else.

        Returns
        -------
        kind : str
        first, last : float
            Until the first answer (the verdict, the EEG), and until all that follows, s.
        """
        kind = next(self.kinds)
        control, choices = self.controls[CONTROLS[kind]], self.choices[CONTROLS[kind]]
        by = 1 if kind == "next picture" else self.random.randrange(1, len(choices))
        self.values[control] = choices[(choices.index(self.values[control]) + by) % len(choices)]
        started = time.perf_counter()
        first = None
        for listener in self.listeners:
            if [control, "input"] in [list(target) for target in listener["targets"]]:
                first = self._run(listener) - started
        return kind, first, time.perf_counter() - started

    def _run(self, listener: dict) -> float:
        """Run a listener and then those that wait for it; return when its own answer came."""
        self.join(listener)
        output = self.answer()
        answered = time.perf_counter()
        for component, value in zip(listener["outputs"], output, strict=True):
            if not (isinstance(value, dict) and "__type__" in value):  # such as "unchanged"
                self.values[component] = value
        for later in self.listeners:
            if later["trigger_after"] == listener["id"]:
                self._run(later)
        return answered

    def join(self, listener: dict) -> None:
        """Queue a listener; `RefusedError` where the queue is full."""
        body = {
            "data": [self.values[component] for component in listener["inputs"]],
            "fn_index": listener["id"],
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": None,
        }
        _answer(self.connection, "POST", "/gradio_api/queue/join?", body)

    def answer(self) -> list:
        """Wait for the answer to what was queued."""
        self.updates += 1
        stream = f"/gradio_api/queue/data?session_hash={self.session}"
        self.connection.request("GET", stream)
        answer, output = self.connection.getresponse(), None
        for line in answer:
            self.received += len(line)
            if line.startswith(b"data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"the page answered {message['output']}")
                    output = message["output"]["data"]
        if output is None:
            raise RuntimeError("the page's answer ended too early")
        return output


def config_of(page: Page) -> dict:
    with contextlib.closing(_connection(page.address)) as connection:
        return json.loads(_answer(connection, "GET", "/config"))


def percentile_95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def median_and_p95(seconds: Sequence[float]) -> tuple[float, float]:
    """Return both, ms."""
    return 1e3 * statistics.median(seconds), 1e3 * percentile_95(seconds)


# ---------------------------------------------------------------- what is measured


def _row(what: str, ours: str, limit: str = "", kept: bool | None = None) -> Row:
    return Row(what, ours, limit, "" if kept is None else "ok" if kept else "over")


def one_visitor(page: Page) -> list[Row]:
    """Measure what one visitor waits for, by what is changed, and of what that is made."""
    visitor = Visitor(page.address, config_of(page), seed=1)
    visitor.open()
    visitor.updates = visitor.received = 0
    changes = []
    for _ in range(CHANGES_OF_ONE):
        time.sleep(LOOK)
        changes.append(visitor.change())
    first, last = ([change[column] for change in changes] for column in (1, 2))
    median, p95 = median_and_p95(last)
    rows = [
        _row(
            "one visitor, a change until all is there: median, p95",
            f"{median:.0f}, {p95:.0f} ms", f"p95 {ONE} ms", p95 < ONE,
        ),
        _row(
            "until the verdict and the EEG are there",
            "{:.0f}, {:.0f} ms".format(*median_and_p95(first)),
        ),
    ]  # fmt: skip
    for kind in CONTROLS:
        of_kind = [seconds for name, _, seconds in changes if name == kind]
        rows.append(_row(f"of these: {kind}", "{:.0f}, {:.0f} ms".format(*median_and_p95(of_kind))))
    updates, received = visitor.updates / len(changes), visitor.received / len(changes) / 1e3
    rows.append(_row("updates and data of a change", f"{updates:.1f}, {received:.0f} kB"))
    return rows


def at_once(
    number: int, what: Callable[[int], object]
) -> tuple[list[object], list[Exception], float]:
    """Do something in many threads that start together; return answers, errors and time, s."""
    together = threading.Barrier(number + 1)

    def one(which: int) -> object:
        together.wait(PATIENCE)
        return what(which)

    with ThreadPoolExecutor(number) as pool:
        jobs = [pool.submit(one, which) for which in range(number)]
        together.wait(PATIENCE)
        started = time.perf_counter()
        errors = [error for job in jobs if (error := job.exception())]
        took = time.perf_counter() - started
    return [job.result() for job in jobs if not job.exception()], errors, took


def many_visitors(page: Page) -> list[Row]:
    """Measure what visitors wait for who all press at the same time, without a pause."""
    config = config_of(page)
    visitors = [Visitor(page.address, config, seed=100 + which) for which in range(VISITORS)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Visitor.open, visitors))

    def use(which: int) -> list[tuple[float, float]]:
        return [visitors[which].change()[1:] for _ in range(CHANGES_OF_EACH)]

    busy = page.processor_time()
    answers, errors, took = at_once(VISITORS, use)
    if not answers:
        raise errors[0]
    first, seconds = zip(*itertools.chain.from_iterable(answers), strict=True)
    median, p95 = median_and_p95(seconds)
    return [
        _row(
            f"{VISITORS} visitors at once, a change until all is there: median, p95",
            f"{median:.0f}, {p95:.0f} ms", f"p95 {MANY} ms", p95 < MANY,
        ),
        _row(
            "until the verdict and the EEG are there",
            "{:.0f}, {:.0f} ms".format(*median_and_p95(first)),
        ),
        _row("changes a second", f"{len(seconds) / took:.0f}"),
        _row(
            "processor time of a change, in the server",
            "not measured: no /proc"
            if busy is None
            else f"{1e3 * (page.processor_time() - busy) / len(seconds):.0f} ms",
        ),
        _row("errors", str(len(errors)), "0", not errors),
    ]  # fmt: skip


def flood(page: Page) -> list[Row]:
    """Ask for more at once than the queue holds, and see that the rest is refused at once."""
    config = config_of(page)
    visitors = [Visitor(page.address, config, seed=1000 + which) for which in range(FLOOD)]
    control = visitors[0].controls["picture"]
    listener = next(
        entry for entry in visitors[0].listeners
        if [control, "input"] in [list(target) for target in entry["targets"]]
    )  # fmt: skip

    def use(which: int) -> tuple[float, str]:
        visitor = visitors[which]
        visitor.values[control] = visitor.random.choice(visitor.choices["picture"])
        started = time.perf_counter()
        try:
            visitor.join(listener)
        except RefusedError as refusal:
            return time.perf_counter() - started, str(refusal)
        visitor.answer()
        return time.perf_counter() - started, ""

    answers, errors, _ = at_once(FLOOD, use)
    refused = [(seconds, says) for seconds, says in answers if says]
    after = Visitor(page.address, config)
    after.open()
    kind, _, again = after.change()
    if not refused:
        return [_row(f"{FLOOD} at once", "none refused", "some", False)]
    median, p95 = median_and_p95([seconds for seconds, _ in refused] * 2)
    return [
        _row(
            f"{FLOOD} at once: answered, refused, errors",
            f"{len(answers) - len(refused)}, {len(refused)}, {len(errors)}",
            "no error", not errors,
        ),
        _row(
            "a refusal comes after: median, p95",
            f"{median:.0f}, {p95:.0f} ms", f"p95 {MANY} ms", p95 < MANY,
        ),
        _row("it says", "; ".join(sorted({says for _, says in refused}))),
        _row(f"afterwards, {kind}", f"{1e3 * again:.0f} ms", "an answer", True),
    ]  # fmt: skip


def api(page: Page) -> list[Row]:
    """Measure the endpoint `/decode` as a program without gradio's client uses it."""
    visitor, seconds = Visitor(page.address, config_of(page)), []
    pictures = visitor.random.sample(visitor.choices["picture"], 20)
    subject, repetitions = visitor.choices["subject"][0], visitor.choices["repetitions"][-1]
    for picture in pictures:
        body = {"data": [subject, "nice", picture, repetitions, "all", None, None, 0]}
        started = time.perf_counter()
        called = _answer(visitor.connection, "POST", "/gradio_api/call/decode", body)
        answer = f"/gradio_api/call/decode/{json.loads(called)['event_id']}"
        assert b"event: complete" in _answer(visitor.connection, "GET", answer)
        seconds.append(time.perf_counter() - started)
    says = "{:.0f}, {:.0f} ms".format(*median_and_p95(seconds))
    return [_row("/decode, another picture each time: median, p95", says)]


def beside_uploads(page: Page) -> list[Row]:
    """Measure what a visitor waits for while another has one recording after the other decoded."""
    from gradio_client import Client, handle_file

    visitor = Visitor(page.address, config_of(page), seed=2)
    visitor.open()
    subject, done, taken, wrong = visitor.choices["subject"][0], threading.Event(), [], []
    with tempfile.TemporaryDirectory() as folder:
        recording, _ = write(Path(folder), CHANNELS, *RECORDING)
        client = Client(page.address, verbose=False)

        def decode_on() -> None:
            while not done.is_set():
                started = time.perf_counter()
                given = [handle_file(str(recording))], subject, "nice"
                try:
                    client.predict(*given, api_name="/decode_recording")
                except Exception as error:  # whatever it is, it counts
                    wrong.append(error)
                taken.append(time.perf_counter() - started)

        thread = threading.Thread(target=decode_on)
        thread.start()
        try:
            changes = []
            for _ in range(CHANGES_OF_ONE):
                time.sleep(LOOK)
                changes.append(visitor.change()[-1])
        finally:
            done.set()
            thread.join()
        client.close()
    median, p95 = median_and_p95(changes)
    seconds, sfreq = RECORDING
    return [
        _row(
            f"one visitor while recordings ({seconds:g} s, {sfreq:g} Hz) are decoded: median, p95",
            f"{median:.0f}, {p95:.0f} ms", f"p95 {MANY} ms", p95 < MANY,
        ),
        _row(
            f"{len(taken)} recordings, from upload to answer: median; errors",
            f"{statistics.median(taken):.1f} s; {len(wrong)}", "no error", not wrong,
        ),
    ]  # fmt: skip


def first_view(page: Page, rounds: int = 3) -> list[Row]:
    """Measure how long Chromium takes with an empty cache, and what it fetches."""
    what = "first view in Chromium: verdict; all with map and plot"
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return [_row(what, "not measured: playwright isn't installed", f"{VIEW:g} s")]
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    verdict, everything, requests, sizes = [], [], [], []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        except Error:
            return [_row(what, "not measured: no Chromium is installed", f"{VIEW:g} s")]
        for _ in range(rounds):
            # A new context has an empty cache.
            with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
                tab = context.new_page()
                asked, received = [], []
                tab.on("request", lambda request, asked=asked: asked.append(request))
                network = context.new_cdp_session(tab)
                network.send("Network.enable")
                network.on(
                    "Network.loadingFinished",
                    lambda event, received=received: received.append(event["encodedDataLength"]),
                )
                started = time.perf_counter()
                tab.goto(page.address, wait_until="commit")
                tab.wait_for_selector(".overall", timeout=1e3 * PATIENCE)
                verdict.append(time.perf_counter() - started)
                tab.wait_for_selector("#carried svg", timeout=1e3 * PATIENCE)
                tab.wait_for_selector("#butterfly .trace", timeout=1e3 * PATIENCE)
                everything.append(time.perf_counter() - started)
                requests.append(len(asked))
                sizes.append(sum(received) / 1e3)
        browser.close()
    seen, drawn = statistics.median(verdict), statistics.median(everything)
    return [
        _row(what, f"{seen:.1f}; {drawn:.1f} s", f"{VIEW:g} s", drawn < VIEW),
        _row(
            "its requests, data",
            f"{statistics.median(requests):.0f}, {statistics.median(sizes):.0f} kB",
        ),
    ]


def rows(bundle: Path = ROOT / "weights" / "phantom") -> list[Row]:
    """Measure all of it, within three minutes."""
    with page_of(bundle) as page:
        memory = page.memory()
        found = [
            _row(
                "start of the process → first answer",
                f"{page.started:.1f} s", f"{START:g} s", page.started < START,
            ),
            _row("memory then", "not measured: no /proc", f"{MEMORY} MB")
            if memory is None
            else _row("memory then", f"{memory:.0f} MB", f"{MEMORY} MB", memory < MEMORY),
        ]  # fmt: skip
        for measure in (first_view, one_visitor, api, beside_uploads, many_visitors, flood):
            found += measure(page)
        if memory is not None:
            found.append(_row("memory in the end", f"{page.memory():.0f} MB"))
    return found


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "weights" / "phantom")
    options = parser.parse_args(argv)
    load = f"{os.cpu_count()} cores" if not hasattr(os, "getloadavg") else machine()
    found = rows(options.bundle)
    print(show(found, load))
    return 1 if any(row.ratio == "over" for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
