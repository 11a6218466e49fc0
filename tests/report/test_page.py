"""The report: self-contained, escaped, well-formed, and drawn to scale."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from medjax.report.chart import line_chart, log_ticks, nice_ticks, number
from medjax.report.page import Card, Report
from medjax.report.picture import SIGNED

ROWS = [{"step": i, "loss": 3.0 / (i + 1), "lr": 1e-4 * i} for i in range(100)]
FILM = np.random.default_rng(0).integers(0, 256, (20, 16)).astype(np.uint8)


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order, and collects what a page fetches."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data"}:
                self.sources.append(value)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        del tag, attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def full_report() -> Report:
    cards = [Card(FILM, "Study 1", [("Right <one>", True), ("Wrong", False)])]
    return (
        Report("A & B", "run <7>")
        .numbers({"AUC": (0.8125, "chance 0.5"), "pairs": (12345, "")})
        .section("Training")
        .text("First.\n\nSecond <script>alert(1)</script>.")
        .curves("Loss", ROWS, ["loss"], log=True)
        .curves("All", ROWS)
        .table(
            [{"finding": "Edema", "AUC": 0.75}, {"finding": "x<y", "AUC": math.nan}],
            caption="Per finding",
            bars={"AUC": (0.5, 1.0)},
        )
        .picture(FILM, "A film")
        .gallery(cards, caption="Pairs")
    )


def test_page_is_balanced_escaped_and_fetches_nothing(tmp_path):
    path = full_report().save(tmp_path / "deep" / "report.html")
    page = path.read_text()
    parser = read(page)
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert len(parser.sources) == 2
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert "url(" not in page and "@import" not in page
    for text in ("A & B", "run <7>", "Right <one>", "<script>alert(1)</script>", "x<y"):
        assert text in parser.text
    assert "0.812" in page and "12,345" in page and "width:50.0%" in page
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_pictures_survive():
    page = Report("t").picture(FILM).picture(FILM / 255.0).html()
    for data in re.findall(r"base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            np.testing.assert_array_equal(np.asarray(image), FILM)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 4), np.uint8), r"\[h, w, 3\]"),
        (np.full((2, 2), 7.0), r"\[0, 1\]"),
        (np.zeros((2, 2), np.int32), "uint8 or float"),
        (np.full((2, 2), np.nan), r"\[0, 1\]"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        Report("t").picture(array)


def polylines(svg: str) -> list[np.ndarray]:
    root = ElementTree.fromstring(svg)
    return [
        np.array([p.split(",") for p in line.get("points").split()], float)
        for line in root.iter("polyline")
    ]


def test_lines_are_drawn_to_scale():
    points = [(0.0, 1.0), (5.0, 2.0), (10.0, 3.0)]
    (line,) = polylines(line_chart({"a": points}))
    assert line[1] == pytest.approx((line[0] + line[2]) / 2, abs=0.1)
    assert line[0, 1] > line[2, 1], "up is more"
    (line,) = polylines(line_chart({"a": [(0, 1.0), (1, 10.0), (2, 100.0)]}, log=True))
    assert line[1] == pytest.approx((line[0] + line[2]) / 2, abs=0.1)


def test_missing_points_break_the_line_and_noise_is_smoothed():
    gap = [(0, 1.0), (1, 2.0), (2, None), (3, math.nan), (4, 1.0), (5, 2.0)]
    assert [len(line) for line in polylines(line_chart({"a": gap}))] == [2, 2]
    rng = np.random.default_rng(0)
    noise = [(i, float(v)) for i, v in enumerate(rng.normal(size=2000))]
    raw, smooth = polylines(line_chart({"a": noise}))
    assert len(raw) <= 601
    assert smooth[50:-50, 1].std() < 0.35 * raw[50:-50, 1].std()
    steady = [(i, i**0.5) for i in range(2000)]
    assert len(polylines(line_chart({"a": steady}))) == 1


def test_every_point_of_a_short_curve_has_a_tooltip():
    svg = line_chart({"a<b": [(0, 0.5), (100, 0.25)]})
    titles = [t.text for t in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["a<b: 0.5 at step 0", "a<b: 0.25 at step 100"]
    assert line_chart({"one": [(3, 2.0)]}).count("<circle") == 2


def test_ticks_are_round_and_inside():
    np.testing.assert_allclose(nice_ticks(0.13, 0.91), [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(nice_ticks(0, 1000), [0, 200, 400, 600, 800, 1000])
    assert len(nice_ticks(2.0, 2.0)) > 1
    np.testing.assert_allclose(log_ticks(0.5, 20), [0.5, 1, 2, 5, 10, 20])
    assert log_ticks(0.55, 0.65)[0] == pytest.approx(0.56)
    assert log_ticks(1e-5, 1e2) == pytest.approx([10.0**d for d in range(-5, 3)])
    readings = [number(v) for v in (0, 1e-5, 0.25, 3.0, 1234567, float("nan"))]
    assert readings == ["0", "1.00e-5", "0.25", "3", "1.23e6", "n/a"]


def test_curves_without_a_number_are_refused():
    with pytest.raises(ValueError, match="no number"):
        Report("t").curves("Loss", ROWS, ["accuracy"])
    with pytest.raises(ValueError, match="no finite point"):
        line_chart({"a": [(0, None)]})
    partly = [{"step": 1, "loss": 1.0}, {"step": 2, "valid": 0.5}, {"step": 3}]
    assert Report("t").curves("Loss", partly, ["loss", "valid", "absent"]).html()


def test_rates_are_drawn_against_the_diagonal_of_the_unit_square():
    perfect = {"ours": [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]}
    page = Report("t").roc("ROC", perfect).reliability("Calibration", perfect).html()
    assert page.count('class="diagonal"') == 2
    (svg, _) = re.findall(r"<svg.*?</svg>", page)
    (line,) = polylines(svg)
    root = ElementTree.fromstring(svg)
    (guess,) = [x for x in root.iter("line") if x.get("class") == "diagonal"]
    # The curve starts and ends where the diagonal does, and passes the corner.
    ends = [[float(guess.get(f"{axis}{i}")) for axis in "xy"] for i in (1, 2)]
    np.testing.assert_allclose(line[[0, 2]], ends, atol=0.1)
    np.testing.assert_allclose(line[1], [ends[0][0], ends[1][1]], atol=0.1)


def test_histograms_hold_shares_over_common_bins():
    groups = {"a": np.array([0.0, 0.1, 0.9, np.nan]), "b": np.array([1.0])}
    page = Report("t").histogram("Scores", groups, x="score", bins=2).html()
    assert "a (n = 3)" in page and "b (n = 1)" in page
    titles = re.findall(r"<title>a [^<]*: ([\d.]+) at score", page)
    assert {float(t) for t in titles} == {0.0, 0.6667, 0.3333}
    with pytest.raises(ValueError, match="no finite value"):
        Report("t").histogram("Scores", {"a": np.array([np.nan])}, x="score")


def test_a_matrix_is_shaded_by_its_rows():
    counts = np.array([[3, 1], [0, 0]])
    page = Report("t").matrix(counts, rows=["x<1", "y"], columns=["p", "q"]).html()
    assert re.findall(r"--share:(\d+)%", page) == ["75", "25", "0", "0"]
    assert "x&lt;1" in page
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        Report("t").matrix(counts, rows=["x"], columns=["p", "q"])


def test_changes_are_shown_in_their_own_unit():
    before, after = np.zeros((4, 4)), np.zeros((4, 4))
    after[0, 0] = 10.0
    page = Report("t").before_after(before, after, reach=10.0).html()
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([^\"]+)", page)
    ]
    np.testing.assert_array_equal(pictures[2][0, 0], SIGNED[-1])
    np.testing.assert_array_equal(pictures[2][1, 1], SIGNED[1])
    assert pictures[1][0, 0] == 255 and not pictures[0].any()
