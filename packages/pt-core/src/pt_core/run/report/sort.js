// Sorts a table by the column whose heading is pressed; data-key holds numbers where the text is not one.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const numeric = head.classList.contains("num");
      const number = (row) => (key(row) === "" || isNaN(key(row)) ? -Infinity : Number(key(row)));
      const order = (a, b) => (numeric ? number(a) - number(b) : key(a).localeCompare(key(b), undefined, { numeric: true }));
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
    });
  });
}
