"""What there is in the simulated world: apps, shops, items, words, and the two releases of its software.

Screens look the same in both releases; some controls work differently, as after an update. The *textbook* release is
the one that the shipped behaviour policy was pre-trained on. The *updated* release is the one that tasks are scored on:
there, what a demonstrator of the textbook release does by mistake is now right, and what it does by the book is wrong.

=====================  ==================================  =======================================
control                textbook                            updated
=====================  ==================================  =======================================
clock, ``+``           opens a new alarm                   does nothing
clock, list of alarms  does nothing                        opens a new alarm
note being written     enter saves it, back discards it    back saves it, enter does nothing
shop, typed query      enter searches, magnifier clears    magnifier searches, enter hides the keys
pop-up advertisement   its cross closes it, its body       its body closes it, its cross opens the
                       opens the advertiser's page         advertiser's page
=====================  ==================================  =======================================
"""

from __future__ import annotations

import enum

WIDTH, HEIGHT, CELL = 96, 192, 32


class Release(enum.StrEnum):
    """Which software the phone runs."""

    TEXTBOOK = "textbook"
    UPDATED = "updated"


APPS = ("browser", "settings", "clock", "mail", "music", "camera", "maps", "notes", "weather")
SHOPS = ("amazo", "ebuy", "wallmart")
COLOURS = ("red", "green", "blue", "yellow", "purple")
OBJECTS = ("mug", "ball", "hat", "book")
ITEMS = tuple(f"{colour} {thing}" for colour in COLOURS for thing in OBJECTS)
TOGGLES = ("wifi", "bluetooth", "airplane", "location")
HOURS = ("5", "6", "7", "8", "9", "10")
NOTE_VERBS = ("buy", "get", "call", "find")
NOTE_NOUNS = ("milk", "bread", "anna", "keys")
NOTES = tuple(f"{verb} {noun}" for verb in NOTE_VERBS for noun in NOTE_NOUNS)

# Where pop-up advertisements put their cross, as (column, row) of cells.
AD_CROSSES = ((2, 1), (0, 1), (2, 3))
