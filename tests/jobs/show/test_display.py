"""What tables look like where a person reads them."""

from rich.console import Console

from jobs.show.display import draw_table


def test_title_is_one_line_and_no_markup() -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(draw_table("/data/team/[red]/a_long_name", [("rows", "3")]))  # wider than the rows below it
    assert [line.rstrip() for line in shown.get().splitlines()] == ["/data/team/[red]/a_long_name", "rows  3"]
