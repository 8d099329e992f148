"""The examples, the snippets of the README and docs/ and the command line do what they show."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCS = "".join(page.read_text() for page in sorted(ROOT.glob("docs/*.md")))
SNIPPETS = re.findall(r"^##+ ([^\n]+)\n(?:(?!^##).)*?^```python\n(.*?)^```", README + DOCS, re.M | re.S)
every_kind = pytest.mark.parametrize("kind", [[], ["--kind=thread"], ["--kind=process"]], ids=" ".join)
# As somebody would who has not installed the extra.
DEMO_WITHOUT_RICH = """
import sys
sys.modules["rich"] = None
from messagechannel.__main__ import main
main(["demo", "--seconds", "0.1"])
"""


def run(*arguments, status=0):
    finished = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert finished.returncode == status, finished.stderr
    return finished.stdout if status == 0 else finished.stderr


def test_the_readme_has_a_snippet_for_each_kind_of_user():
    assert [title for title, _ in SNIPPETS][:4] == [
        "If you know queue",
        "If you know janus",
        "If you know multiprocessing",
        "If you know the web API",
    ]


def test_no_snippet_is_left_out():
    assert len(SNIPPETS) == (README + DOCS).count("```python")


@pytest.mark.parametrize("snippet", [code for _, code in SNIPPETS], ids=[title for title, _ in SNIPPETS])
def test_snippet_prints_what_its_comments_say(snippet, tmp_path):
    file = tmp_path / "snippet.py"
    file.write_text(snippet)
    assert run(file).splitlines() == re.findall(r"print\(.*\) +# (.*)", snippet)


@every_kind
def test_basic_is_one_message_and_one_reply(kind):
    assert run(ROOT / "examples" / "basic.py", *kind).splitlines() == [
        "index.html posts [MainThread]: A message from the index.html page!",
        "page2.html hears [iframe]: A message from the index.html page!",
        "page2.html posts [iframe]: A message from the iframe in page2.html",
        "index.html hears [messagechannel-dispatcher]: A message from the iframe in page2.html",
    ]


@every_kind
def test_multimessage_confirms_each_text(kind):
    assert run(ROOT / "examples" / "multimessage.py", *kind, "one", 'say "two"').splitlines() == [
        "index.html posts [MainThread]: init",
        "index.html posts [MainThread]: one",
        "page2.html lists [iframe]: <li>one</li>",
        'index.html shows [messagechannel-dispatcher]: Message received by IFrame: "one"',
        'index.html posts [MainThread]: say "two"',
        'page2.html lists [iframe]: <li>say "two"</li>',
        'index.html shows [messagechannel-dispatcher]: Message received by IFrame: "say "two""',
    ]


@every_kind
def test_multimessage_has_texts_of_its_own(kind):
    assert run(ROOT / "examples" / "multimessage.py", *kind).count("Message received by IFrame") == 3


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_demo_runs_both_examples_and_measures(kind):
    lines = run("-m", "messagechannel", "demo", "--seconds", "0.1", "--kind", kind).splitlines()
    assert sum("hears" in line and "from the iframe in page2.html" in line for line in lines) == 1
    assert sum("Message received by IFrame" in line for line in lines) == 3
    assert re.fullmatch(r"[\d,]+ messages a second from one " + kind + r" to another.*", lines[-1])


def test_demo_measures_without_rich():
    assert "messages a second" in run("-c", DEMO_WITHOUT_RICH)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_demo_refuses_a_duration_that_is_none(seconds):
    assert "--seconds" in run("-m", "messagechannel", "demo", f"--seconds={seconds}", status=2)


def test_info_names_versions_and_platform():
    text = run("-m", "messagechannel", "info")
    assert re.search(r"^messagechannel \d+\.\d+", text, re.M)
    assert platform.python_version() in text


def test_help_names_the_subcommands():
    text = run("-m", "messagechannel", "--help")
    assert "demo" in text
    assert "info" in text


@pytest.mark.parametrize("arguments", [[], ["dance"], ["info", "more"]])
def test_a_wrong_command_line_is_refused_with_the_usage(arguments):
    assert "usage: python -m messagechannel" in run("-m", "messagechannel", *arguments, status=2)
