"""What pages print, without what differs from machine to machine."""

import re

from places import ROOT

EXAMPLES = ROOT / "examples"
INTRODUCTION = re.compile(r"(data|device|steps|time|advice): |weight of the label |(student|teacher): (?!# epochs)")


def shape(text):
    """What stays of a printed text when images, epochs of luck and machines differ: every figure as #.

    What stands before the first step is left out, as on the pages: it says what the machine and the images are.
    """
    text = re.sub(r"bfloat16|float32", "PRECISION", text)
    figures = re.sub(r"\d[\d.,]*", "#", re.sub(r"runs/\w+|my_images/\S+", "PATH", text))
    lines = [" ".join(line.split()) for line in figures.strip().splitlines()]
    return [line for line in lines if not INTRODUCTION.match(line)]
