"""The command line: serve (the default), say, voices, info, doctor.

What a subcommand needs is imported when it runs, so that the server listens early and ``--help`` is quick. What goes wrong is
told by `cli_errors`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tts_provider import __version__
from tts_provider.cli_errors import FAILED, report, sentence
from tts_provider.errors import EngineUnavailable
from tts_provider.settings import Settings, SettingsError, add_flags, load_settings, to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tts_provider.client import RequestOptions, TTSClient
    from tts_provider.engines.sesame.selfcheck import Check as SesameCheck
    from tts_provider.engines.zonos.selfcheck import Check as ZonosCheck

__all__ = ["main"]

PROBE_S: Final = 2.0
"""Seconds for a running server's handshake. When none was named, one of our own is used after that."""

TRIAL_S: Final = 600.0
"""Seconds for the default engine's trial: a model may have to be loaded, or even downloaded."""

UNAUTHORIZED: Final = 401


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`, the process's arguments by default; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    args = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        status = run(args)
        sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        return report(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tts-provider",
        description="A self-hosted text-to-speech server and its tools.",
        epilog="Without a command it serves; 'serve --help' lists the settings.",
    )
    parser.add_argument("--version", action="version", version=f"tts_provider {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="serve speech (the default)", allow_abbrev=False)
    add_flags(serve)
    serve.add_argument("--print-config", action="store_true", help="show all settings as TOML and end")
    serve.set_defaults(run=_serve)

    say = commands.add_parser("say", help="speak a text into a file or to your ears")
    text = say.add_mutually_exclusive_group(required=True)
    text.add_argument("text", nargs="?", metavar="TEXT", help="what to say; - reads standard input")
    text.add_argument("--file", metavar="FILE", type=Path, help="file that holds the text")
    say.add_argument("-o", "--output", metavar="FILE", help="file to write; - for standard output")
    say.add_argument("--play", action="store_true", help="play while the audio is made; - is spoken while it comes in")
    say.add_argument("--player", metavar="NAME", help="miniaudio, sounddevice, ffplay, mpv, aplay or null")
    say.add_argument("--stream", action="store_true", help="write the file while the audio is made; - as for --play")
    say.add_argument("--model", metavar="NAME", help="engine: edge, espeak, ...")
    say.add_argument("--voice", metavar="NAME", help="one of the engine's voices, as the command voices lists them")
    say.add_argument("--speaker", metavar="N", type=int, default=0, help="0 US male, 1 US female, 2 US male, 3 UK female")
    say.add_argument("--lang", metavar="TAG", default="en-US", help="language, such as de-DE (default: en-US)")
    say.add_argument("--speed", metavar="X", type=float, default=1.0, help="0.25 to 4 times the voice's own")
    say.add_argument("--sample-rate", metavar="HZ", type=int, default=24_000, help="(default: 24000)")
    say.add_argument("--format", choices=("wav", "pcm", "mp3", "opus", "flac"), help="(default: what the file's name says)")
    _add_server_flags(say)
    say.set_defaults(run=_say)

    voices = commands.add_parser("voices", help="list the voices")
    voices.add_argument("--model", metavar="NAME", help="only this engine's")
    voices.add_argument("--lang", metavar="TAG", help="only this language's, such as de or de-DE")
    voices.add_argument("--gender", choices=("female", "male"), help="only these")
    voices.add_argument("--json", action="store_true", help="as JSON")
    _add_server_flags(voices)
    voices.set_defaults(run=lambda args: _with_client(args, _voices))

    info = commands.add_parser("info", help="show the server's engines and their state")
    info.add_argument("--json", action="store_true", help="as JSON")
    _add_server_flags(info)
    info.set_defaults(run=lambda args: _with_client(args, _info))

    doctor = commands.add_parser("doctor", help="say what is installed, what each engine lacks and how to fix it")
    doctor.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
    doctor.add_argument("--no-trial", dest="trial", action="store_false", help="do not have the default engine speak")
    doctor.set_defaults(run=_doctor)

    selfcheck = commands.add_parser("selfcheck", help="check a GPU engine with its real weights")
    selfcheck.add_argument("model", choices=("sesame", "zonos"))
    selfcheck.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu or a CUDA device (default: auto)")
    selfcheck.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
    selfcheck.set_defaults(run=_selfcheck)
    return parser


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server", "A running server is used; if none answers, one of its own that ends with it.")
    group.add_argument("--host", metavar="HOST", help="where a server runs; then none other is used")
    group.add_argument("--port", metavar="PORT", type=int, help="likewise")
    group.add_argument(
        "--url", metavar="URL", help="instead of both, such as wss://tts.example:9000; TTS_API_KEY holds its key"
    )
    group.add_argument("--cafile", metavar="FILE", help="PEM file with the authority that signed the server's certificate")
    group.add_argument("--local", action="store_true", help="use a server of its own in any case")
    group.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
    group.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds to wait for progress (default: 60)")


def _serve(args: argparse.Namespace) -> int:
    settings = load_settings(vars(args), os.environ, args.config)
    if args.print_config:
        sys.stdout.write(to_toml(settings))
        return 0
    import trio

    _import_structlog()
    from tts_provider.logs import configure_logging
    from tts_provider.server.lifecycle import serve

    configure_logging(settings.log_level, settings.log_format, settings.api_keys)
    trio.run(serve, settings)
    return 0


def _import_structlog() -> None:
    """Import structlog as where rich is not installed: it would import rich, a tenth of the start, and nobody here uses it."""
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        if hidden:
            del sys.modules["rich"]


def _say(args: argparse.Namespace) -> int:
    from tts_provider.say import STDOUT, Job, format_of, read_stdin, say

    live = args.text == STDOUT and (args.stream or args.play)
    output = args.output or (None if args.play else f"speech.{'ogg' if args.format == 'opus' else args.format or 'wav'}")
    format = args.format or format_of(output)
    if args.play and output is not None and format not in ("wav", "pcm"):
        raise SettingsError(f"--play and a file in {format} exclude each other; write wav or pcm.")
    options: RequestOptions = {
        "model": args.model,
        "voice": args.voice,
        "speaker": args.speaker,
        "lang": args.lang,
        "speed": args.speed,
        "sample_rate": args.sample_rate,
    }
    job = Job(
        text=read_stdin() if live else _text(args),
        output=output,
        format=format,
        stream=args.stream,
        play=args.play,
        player=args.player,
        options=options,
    )
    return _with_client(args, lambda client, _: say(client, job))


def _text(args: argparse.Namespace) -> str:
    if args.file is not None:
        file: Path = args.file
        return file.read_text(encoding="utf-8-sig")
    if args.text == "-":
        return sys.stdin.buffer.read().decode("utf-8")
    return str(args.text)


async def _voices(client: TTSClient, args: argparse.Namespace) -> None:
    voices = [voice for voice in await client.voices(args.model, args.lang) if args.gender in (None, voice.gender)]
    if args.json:
        _print_json(voices)
    else:
        rows = [(voice.model, voice.id, voice.lang, voice.gender or "", voice.name) for voice in voices]
        _print_table([("MODEL", "VOICE", "LANG", "GENDER", "NAME"), *rows])


async def _info(client: TTSClient, args: argparse.Namespace) -> None:
    if args.json:
        _print_json(await client.get_server_info())
        return
    info = await client.info()
    print(f"tts_provider {info.server_version}, default engine {info.current_model.name}, {info.queue_size} waiting")
    rows = [
        (name, model.state, f"{model.sample_rate} Hz", ", ".join(model.identifiers), model.detail or "")
        for name, model in info.available_models.items()
    ]
    _print_table([("MODEL", "STATE", "RATE", "NAMES", ""), *rows])


def _doctor(args: argparse.Namespace) -> int:
    import trio

    from tts_provider.doctor import examine, read_requirements
    from tts_provider.playback import available_players
    from tts_provider.server.lifecycle import engine_entries

    settings = load_settings({}, os.environ, args.config)
    entries = engine_entries(settings)

    async def trial() -> float:
        began = trio.current_time()
        with trio.fail_after(TRIAL_S):
            async with _own_server(settings, TRIAL_S) as client:
                await client.speak("Ready.")
        return trio.current_time() - began

    findings = trio.run(
        partial(
            examine,
            entries,
            settings.default_model,
            requirements=read_requirements(),
            players=available_players(),
            trial=trial if args.trial else None,
            explain=sentence,
        )
    )
    print(findings.text)
    return 0 if findings.healthy else FAILED


def _selfcheck(args: argparse.Namespace) -> int:
    settings = load_settings({}, os.environ, args.config)
    passed = True
    for check in _checks(args.model, args.device, settings):
        passed = passed and check.passed is not False
        mark = {True: "ok", False: "FAILED", None: "-"}[check.passed]
        print(f"{mark:6}  {check.name}: {check.detail}", flush=True)
    return 0 if passed else FAILED


def _checks(model: str, device: str, settings: Settings) -> Iterator[SesameCheck | ZonosCheck]:
    if model == "sesame":
        from tts_provider.engines.sesame.selfcheck import selfcheck as check_sesame

        voices = Path(settings.sesame_voices) if settings.sesame_voices else None
        yield from check_sesame(model=settings.sesame_model, dtype=settings.sesame_dtype, device=device, voices=voices)
        return
    from tts_provider.engines.zonos import availability

    if (advice := availability()) is not None:
        raise EngineUnavailable(advice)
    from tts_provider.engines.zonos.selfcheck import selfcheck as check_zonos

    yield from check_zonos(model=settings.zonos_model, dac=settings.zonos_dac, dtype=settings.zonos_dtype, device=device)


# --- A server to talk to ---


def _with_client(args: argparse.Namespace, command: Callable[[TTSClient, argparse.Namespace], Awaitable[None]]) -> int:
    import trio

    async def run() -> None:
        async with _client(args) as client:
            await command(client, args)

    trio.run(run)
    return 0


@asynccontextmanager
async def _client(args: argparse.Namespace) -> AsyncIterator[TTSClient]:
    """A client of the running server, or of one that lives as long as the block."""
    import trio

    from tts_provider.client import ConnectFailed

    settings = load_settings({}, os.environ, args.config)
    client = _client_of(args, settings)
    async with AsyncExitStack() as stack:
        if not args.local:
            try:
                with trio.fail_after(PROBE_S):
                    await stack.enter_async_context(client)
            except (ConnectFailed, trio.TooSlowError) as error:
                refused = isinstance(error, ConnectFailed) and error.status == UNAUTHORIZED
                if refused or args.url or args.host or args.port:
                    raise ConnectFailed(sentence(error)) from error
        if not client.is_connected():
            client = await stack.enter_async_context(_own_server(settings, args.timeout))
        yield client


def _client_of(args: argparse.Namespace, settings: Settings) -> TTSClient:
    """A client of the server that runs already, if one does."""
    import ssl

    from tts_provider.client import TTSClient

    try:
        if args.url:
            context = ssl.create_default_context(cafile=args.cafile) if args.url.startswith("wss:") else None
            return TTSClient.from_url(args.url, args.timeout, ssl_context=context)
        everywhere = settings.host in ("0.0.0.0", "::", "")
        host = args.host or ("localhost" if everywhere else settings.host)
        # The configuration that the server was started with also tells who may use it.
        key = None if args.host or os.environ.get("TTS_API_KEY") else next(iter(settings.api_keys), None)
        return TTSClient(host, args.port or settings.port, args.timeout, api_key=key)
    except ValueError as error:
        raise SettingsError(str(error)) from error


@asynccontextmanager
async def _own_server(settings: Settings, timeout: float) -> AsyncIterator[TTSClient]:
    import trio

    from tts_provider.client import TTSClient
    from tts_provider.logs import configure_logging
    from tts_provider.server.lifecycle import serve

    configure_logging("critical", "text")
    # Nobody else shall reach it, so that it needs no key and no certificate.
    settings = replace(settings, host="127.0.0.1", port=0, preload=(), api_keys=(), api_keys_file="", tls_cert="", tls_key="")
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, settings, own_process=False))
        async with TTSClient(address.host, address.port, timeout, api_key="") as client:
            yield client
        nursery.cancel_scope.cancel(reason="the command has ended")


# --- What people read ---


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
