"""Pictures as SVG: lengths and places are those of the values, text stays text, nothing missing is drawn."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.plots.axes import axis_for, ticks_for
from iobench.results.plots.drawing import bar_chart, chart, curve, logarithmic
from iobench.results.plots.lettering import broken, fitted, width_of
from iobench.results.plots.svg import NARROW, picture


def bar(name, labels, values, **more):
    return {"type": "bar", "orientation": "h", "name": name, "y": labels, "x": values, "marker": {"color": name}} | more


def drawn(traces, layout, **how):
    return ET.fromstring(picture(traces, layout, **how))


def rectangles(tree, colour):
    found = [each for each in tree.iter("rect") if each.get("fill") == colour and each.get("width") != "14"]
    return [(float(each.get("x")), float(each.get("width"))) for each in found]  # without the legend's swatches


def test_bars_are_as_long_as_their_values_and_begin_where_the_one_before_ends():
    tree = drawn([bar("red", ["a", "b"], [2.0, 4.0]), bar("blue", ["a", "b"], [1.0, 2.0])], bar_chart("x", 2))
    (x0, wide), (x1, wider) = rectangles(tree, "red")
    (y0, thin), (_, thinner) = rectangles(tree, "blue")
    assert x0 == x1
    assert wider == pytest.approx(2 * wide, abs=0.2)
    assert thin == pytest.approx(wide / 2, abs=0.2)
    assert thinner == pytest.approx(wide, abs=0.2)
    assert y0 == pytest.approx(x0 + wide, abs=0.2)


def test_a_value_below_zero_goes_to_the_other_side():
    tree = drawn([bar("red", ["a", "b"], [-1.0, 1.0])], bar_chart("x", 2))
    (left, first), (right, second) = rectangles(tree, "red")
    assert left + first == pytest.approx(right, abs=0.2)
    assert first == pytest.approx(second, abs=0.2)


def test_what_was_not_measured_is_not_drawn():
    assert rectangles(drawn([bar("red", ["a", "b"], [None, 1.0])], bar_chart("x", 2)), "red")[1:] == []
    tree = drawn([curve("c", [1, 2, 3], [1.0, None, 3.0], colour="red", symbol="circle")], chart("x", "y"))
    assert len([each for each in tree.iter("path") if each.get("transform")]) == 2


def test_an_interval_reaches_as_far_as_it_says_and_ends_at_the_rim():
    error = {"array": [1.0, 9.0], "arrayminus": [1.0, 1.0]}
    layout = bar_chart("x", 2)
    layout["xaxis"]["range"] = [0, 8]
    tree = drawn([bar("red", ["a", "b"], [4.0, 4.0], error_x=error)], layout)
    (x, wide), _ = rectangles(tree, "red")
    first, second = [each.get("d") for each in tree.iter("path") if each.get("class") == "interval"]
    ends = [float(number) for number in re.findall(r"[ML](\S+) ", first)][:2]
    assert ends == pytest.approx([x + wide * 3 / 4, x + wide * 5 / 4], abs=0.2)
    assert first.count("M") == 3  # itself and two feet
    assert second.count("M") == 2  # the far foot is outside
    assert float(re.findall(r"L(\S+) ", second)[0]) == pytest.approx(x + 2 * wide, abs=0.2)


@pytest.mark.parametrize("width", [880, NARROW])
def test_text_stays_text_wherever_it_stands(width):
    evil = "</text></svg><script>alert(1)</script>&amp;\"'"
    trace = bar("red", [evil], [1.0], text=[evil], insidetextfont={"color": ["red"]}, hovertext=[evil]) | {"name": evil}
    layout = bar_chart(evil, 1)
    layout["xaxis"] |= {"tickvals": [0.5], "ticktext": [evil]}
    layout["annotations"].append({"x": 0.5, "y": evil, "text": evil})
    tree = drawn([trace, trace], layout, width=width)
    assert {each.tag for each in tree.iter()} <= {"svg", "path", "rect", "text", "tspan", "title"}
    assert evil in [each.text for each in tree.iter("title")] or width == NARROW
    assert any("".join(each.itertext()).startswith("</text></svg><script>") for each in tree.iter("text"))


def test_a_mark_tells_a_pointer_what_it_is():
    tree = drawn([curve("rate", [1, 2], [3.0, 4.0], colour="red", symbol="circle")], chart("x", "y"))
    assert [each.text for each in tree.iter("title")] == ["rate: 1, 3", "rate: 2, 4"]


def test_round_numbers_stand_at_the_ticks():
    axis = axis_for({}, [0.0, 47.0], start=0, end=100, from_zero=True)
    assert [text for _, text in ticks_for(axis, {}, most=5)] == ["0", "10", "20", "30", "40"]
    percent = axis_for({"range": [0, 1]}, [], start=0, end=100, from_zero=True)
    assert [t for _, t in ticks_for(percent, {"tickformat": ".0%"}, most=5)] == [
        "0%",
        "20%",
        "40%",
        "60%",
        "80%",
        "100%",
    ]
    small = axis_for({}, [0.0012, 0.0019], start=0, end=100, from_zero=False)
    assert [text for _, text in ticks_for(small, {}, most=4)] == ["0.0012", "0.0014", "0.0016", "0.0018"]


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    axis = axis_for(logarithmic([1.0, 100.0]), [1.0, 100.0], start=0, end=100, from_zero=False)
    assert axis.at(10) - axis.at(1) == pytest.approx(axis.at(100) - axis.at(10))


@given(st.lists(st.floats(-1e12, 1e12), min_size=1), st.booleans())
def test_every_value_is_on_its_axis_and_ticks_are_few(values, from_zero):
    axis = axis_for({}, values, start=20, end=300, from_zero=from_zero)
    assert all(20 - 1e-6 <= axis.at(value) <= 300 + 1e-6 for value in values)
    assert len(ticks_for(axis, {}, most=6)) <= 8


@given(st.text(), st.floats(20, 400))
def test_lines_are_no_wider_than_the_room_they_are_given(text, room):
    assert all(width_of(line) <= room for line in broken(text, room))
    assert width_of(fitted(text, room)) <= room


def test_on_a_phone_names_stand_above_their_bars():
    tree = drawn([bar("red", ["a name that is rather long\nand goes on"], [1.0])], bar_chart("x", 1), width=NARROW)
    (x, _) = rectangles(tree, "red")[0]
    assert x < 20
    assert "a name that is rather long and goes on" in [each.text for each in tree.iter("text")]
