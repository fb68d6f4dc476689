// Sorts a table by the column whose heading is clicked, and hides the rows that a search does not find.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = text => parseFloat(text.replace(/,/g, "").replace(/^[^\d-]*/, ""));
  const text = (row, column) => row.cells[column].textContent.trim();
  const compare = (a, b, column) => {
    const [x, y] = [number(text(a, column)), number(text(b, column))];
    if (column === 0 || (isNaN(x) && isNaN(y))) return text(a, column).localeCompare(text(b, column), undefined, {numeric: true});
    return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(a, b, column)));
    });
  });
  if (body.rows.length < 12) continue;
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "find rows";
  search.setAttribute("aria-label", "Find rows of this table");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(words);
  });
  table.parentElement.before(search);
}
