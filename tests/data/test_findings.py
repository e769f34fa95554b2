"""Faults of annotation files in messages: counted by kind, short, and harmless to a terminal."""

import logging

import pytest

from maskrcnn_jax.data.findings import Findings, named, plain, plain_line, short

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b1A\r\u202egnp.\x08[/]"


def test_letters_of_any_script_stay():
    text = "\u0928\u093e\u0930\u093f\u092f\u0932 \u200d \u98df \U0001f951\n\t"
    assert plain(text) == text
    assert plain(HOSTILE) == "?]0;title??[2J?1A??gnp.?[/]"


def test_a_name_fills_one_cell_of_a_table():
    assert plain_line("a\nb\tc\r\x07") == "a?b?c??"


def test_an_entry_counts_once_under_its_first_kind():
    findings = Findings()
    assert not findings and findings.lines() == []
    for kind, entry in (("boxes", 7), ("masks", 7), ("masks", 8), ("masks", "7"), ("boxes", 9)):
        findings.add(kind, entry)
    findings.add("files", 7, "image id")  # Another entry than the annotation 7.
    assert findings and findings.lines() == [
        "2 boxes: annotation id 7, 9",
        "2 masks: annotation id 8, 7",
        "files: image id 7",
    ]


def test_findings_are_warnings_or_an_error(caplog):
    findings = Findings()
    findings.report("a.json", strict=True)
    findings.add("boxes", 7)
    findings.add("files", 1, "image id")
    findings.report("a.json")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["a.json: boxes: annotation id 7", "a.json: files: image id 1"]
    with pytest.raises(ValueError) as raised:
        findings.report("a.json", strict=True)
    expected = "a.json, read strictly: boxes: annotation id 7; files: image id 1"
    assert str(raised.value) == expected


def test_the_first_ids_stand_for_all():
    assert named(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert named(range(11)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert named([]) == ""


def test_long_ids_leave_no_room_for_others():
    found = named(f"{i}{'x' * 89}" for i in range(9))
    assert found.count("xxx, ") == 5 and found.endswith("x, ...") and len(found) < 520
    (only,) = (named(["x" * 9000]),)  # The first one is always there.
    assert only.startswith("x" * 100 + "... (9000 characters)")


def test_a_value_in_a_message_is_short_and_printable():
    assert short("a" * 40) == "a" * 40
    assert short("a" * 41) == "a" * 40 + "... (41 characters)"
    assert short([1, "b"]) == "[1, 'b']" and short("abc", 2) == "ab... (3 characters)"
    assert short("\x1b[2J\u202e\n") == "?[2J??"
    assert short(10**5000) == "a number of thousands of digits"
