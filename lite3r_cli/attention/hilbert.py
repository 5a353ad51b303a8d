"""A generalised Hilbert curve: an order of the cells of a grid in which every run of cells is compact."""

from __future__ import annotations


def hilbert(rows: int, columns: int) -> list[int]:
    """The cells of a grid of any size (row-major indices) in the order of a generalised Hilbert curve. Almost all
    consecutive cells are adjacent.
    """
    path: list[int] = []

    def step(x: int) -> int:
        return (x > 0) - (x < 0)

    def fill(x: int, y: int, ax: int, ay: int, bx: int, by: int) -> None:
        """Append the cells of the rectangle at (x, y) spanned by a, the curve's main direction, and b."""
        width, height = abs(ax + ay), abs(bx + by)
        dax, day, dbx, dby = step(ax), step(ay), step(bx), step(by)
        if height == 1:
            path.extend((y + i * day) * columns + x + i * dax for i in range(width))
            return
        if width == 1:
            path.extend((y + i * dby) * columns + x + i * dbx for i in range(height))
            return
        hax, hay, hbx, hby = int(ax / 2), int(ay / 2), int(bx / 2), int(by / 2)
        if 2 * width > 3 * height:  # long: two halves in a row
            if abs(hax + hay) % 2 and width > 2:
                hax, hay = hax + dax, hay + day
            fill(x, y, hax, hay, bx, by)
            fill(x + hax, y + hay, ax - hax, ay - hay, bx, by)
            return
        if abs(hbx + hby) % 2 and height > 2:
            hbx, hby = hbx + dbx, hby + dby
        fill(x, y, hbx, hby, hax, hay)
        fill(x + hbx, y + hby, ax, ay, bx - hbx, by - hby)
        fill(x + ax - dax + hbx - dbx, y + ay - day + hby - dby, -hbx, -hby, hax - ax, hay - ay)

    if columns >= rows:
        fill(0, 0, columns, 0, 0, rows)
    else:
        fill(0, 0, 0, rows, columns, 0)
    return path
