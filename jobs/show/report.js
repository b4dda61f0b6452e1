"use strict";
// Tables sort by the column whose heading is pressed; cells without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = [...heading.parentElement.children].indexOf(heading);
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const each of heading.parentElement.children) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const isMissing = (text) => text === "" || text === "–";
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
      const [p, q] = [Number(x), Number(y)];
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
      return descending ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
