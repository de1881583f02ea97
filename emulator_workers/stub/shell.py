"""What the stub's phones answer to ``adb shell``: the commands that Appium's driver and this project's code use.

A command that is not known answers nothing, as most Android commands do when all is well, and is reported, so that
tests can show that none is missing. ``am instrument`` is not here: it is a stream that lives as long as the server on
the phone (``instrumentation``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from emulator_workers.stub.gestures import Swipe, Tap, Text
from emulator_workers.stub.phone import StubPhone
from emulator_workers.stub.properties import DENSITY, PROPERTIES

SERVER = "io.appium.uiautomator2.server"
SERVER_TEST = f"{SERVER}.test"
SETTINGS = "io.appium.settings"
PROCESSES = ("system_server", "com.android.systemui", SETTINGS)
KEYCODES = {"KEYCODE_HOME": 3, "KEYCODE_BACK": 4, "KEYCODE_ENTER": 66}
PACKAGES = "".join(f"package:{name}\n" for name in (SETTINGS, SERVER, SERVER_TEST))
NEWEST = 999_999_999
"""A version code that no package of the driver exceeds, so that what is on the phone never has to be updated."""

Answer = Callable[[StubPhone, re.Match[str]], str]


def plain(command: str) -> str:
    """A command without the quotes that clients put around its words."""
    return re.sub(r"['\"]", "", command).strip()


def answer(phone: StubPhone, command: str) -> str | None:
    """What a ``plain`` command prints; ``None`` if it is not known."""
    for pattern, reply in _COMMANDS:
        match = re.fullmatch(pattern, command, re.DOTALL)
        if match is not None:
            return reply(phone, match)
    return None


def starts_instrumentation(command: str) -> bool:
    """Whether a ``plain`` command starts the server on the phone."""
    return command.startswith("am instrument ")


def _force_stop(phone: StubPhone, match: re.Match[str]) -> str:
    if match[1] in (SERVER, SERVER_TEST):
        phone.end_uia2()
    return ""


def _key(phone: StubPhone, match: re.Match[str]) -> str:
    for key in match[1].split():
        phone.screen.press(KEYCODES.get(key, int(key) if key.isdigit() else 0))
    return ""


def _tap(phone: StubPhone, match: re.Match[str]) -> str:
    phone.screen.do(Tap(int(match[1]), int(match[2])))
    return ""


def _swipe(phone: StubPhone, match: re.Match[str]) -> str:
    phone.screen.do(Swipe(*(int(match[group]) for group in range(1, 5))))
    return ""


def _text(phone: StubPhone, match: re.Match[str]) -> str:
    phone.screen.do(Text(match[1].replace("%s", " ")))
    return ""


def _processes(phone: StubPhone, match: re.Match[str]) -> str:
    del match
    names = (*PROCESSES, *((SERVER, SERVER_TEST) if phone.instrumentation.running else ()))
    rows = [f"u0_a{i} {1000 + i} 1 1000 1000 0 0 S {name}" for i, name in enumerate(names)]
    return "\n".join(["USER PID PPID VSZ RSS WCHAN ADDR S NAME", *rows]) + "\n"


def _process_id(phone: StubPhone, match: re.Match[str]) -> str:
    names = (*PROCESSES, *((SERVER, SERVER_TEST) if phone.instrumentation.running else ()))
    wanted = re.sub(r"[\[\]\\]", "", match[1])
    return "".join(f"{1000 + i}\n" for i, name in enumerate(names) if wanted in name)


def _package(phone: StubPhone, match: re.Match[str]) -> str:
    del phone
    return (
        f"Packages:\n  Package [{match[1]}] (1a2b3c):\n    userId=10001\n    versionCode={NEWEST} minSdk=21 "
        f"targetSdk=34\n    versionName=999.0.0\n    runtime permissions:\n"
    )


def _window(phone: StubPhone, match: re.Match[str]) -> str:
    del match
    state = phone.screen.phone.state
    focus = "Application Not Responding: org.digiq.simphone" if state.not_responding else "org.digiq.simphone/.Main"
    return (
        f"  mCurrentFocus=Window{{5f1 u0 {focus}}}\n  mFocusedApp=AppWindowToken{{5f2 token=Token{{5f3 "
        f"ActivityRecord{{5f4 u0 org.digiq.simphone/.Main t1}}}}}}\n  mScreenOnFully=true\n"
        "  mShowingLockscreen=false mDreamingLockscreen=false\n"
    )


def _fixed(text: str) -> Answer:
    return lambda phone, match: text


_COMMANDS: tuple[tuple[str, Answer], ...] = (
    (r"getprop (\S+)", lambda phone, match: PROPERTIES.get(match[1], "") + "\n"),
    (r"getprop", lambda phone, match: "".join(f"[{name}]: [{value}]\n" for name, value in PROPERTIES.items())),
    (r"echo (.*)", lambda phone, match: match[1] + "\n"),
    (r"am force-stop (\S+)", _force_stop),
    (r"am (?:start|start-activity|startservice|start-foreground-service|broadcast) .*", _fixed("Status: ok\n")),
    (r"dumpsys activity services \S+", _fixed("  isForeground=true foregroundId=1\n")),
    (r"ps(?: -A)?", _processes),
    (r"ps --help", _fixed("usage: ps [-AadefLlnwZ]\n-A\tAll\n")),
    (r"(?:pgrep -f|pidof) (.*)", _process_id),
    (r"input keyevent ([\w ]+)", _key),
    (r"input tap (\d+) (\d+)", _tap),
    (r"input (?:touchscreen )?swipe (\d+) (\d+) (\d+) (\d+)(?: \d+)?", _swipe),
    (r"input text (.*)", _text),
    (r"wm size", lambda phone, match: f"Physical size: {phone.screen.width}x{phone.screen.height}\n"),
    (r"wm density", _fixed(f"Physical density: {DENSITY}\n")),
    (r"dumpsys window.*", _window),
    (r"dumpsys power", _fixed("mWakefulness=Awake\nmHoldingDisplaySuspendBlocker=true\n")),
    (r"dumpsys package (\S+)", _package),
    (r"dumpsys deviceidle whitelist .*", _fixed("Added\n")),
    (
        r"(?:cmd package|pm) list packages.*",
        _fixed(PACKAGES),
    ),
    (
        r"pm list instrumentation",
        _fixed(f"instrumentation:{SERVER_TEST}/androidx.test.runner.AndroidJUnitRunner (target={SERVER})\n"),
    ),
    (r"(?:cmd package|pm) (?:install|uninstall) .*", _fixed("Success\n")),
    (r"settings get .*", _fixed("0\n")),
    (r"settings (?:put|delete) .*", _fixed("")),
    (
        r"(?:pm grant|appops set|ime (?:enable|set|reset)|cmd appops|svc|setprop|am kill|kill|locksettings) .*",
        _fixed(""),
    ),
)
