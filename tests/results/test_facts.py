"""What a run was told, in words: long lists are cut where people read them."""

from iobench.results.facts import MOST_ITEMS, fact_text, facts


def test_a_long_list_is_cut_and_how_many_are_not_shown_is_said():
    assert fact_text("skipped", [f"image {number}" for number in range(1000)]) == (
        ", ".join(f"image {number}" for number in range(MOST_ITEMS)) + ", and 980 more"
    )


def test_a_list_that_fits_is_shown_whole():
    whole = list(range(MOST_ITEMS))
    assert fact_text("gpus", whole) == ", ".join(map(str, whole))
    assert fact_text("gpus", []) == "none"


def test_what_is_told_of_images_has_a_line_each():
    told = {"images": {"decoder_requested": "auto", "decoder": "simplejpeg 1.9.0", "num_by_host": 2, "num_skipped": 0}}
    told["images"]["skipped"] = []
    assert facts(told) == [
        ("images, decoder requested", "auto"),
        ("images, decoder", "simplejpeg 1.9.0"),
        ("images, number left to the decoder of reader threads", "2"),
        ("images, number left out", "0"),
        ("images, left out", "none"),
    ]
