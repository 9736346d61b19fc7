// The runs table: sorts by a click on a heading, and shows the rows that the filters leave; folded tables are printed.
"use strict";
(() => {
  const table = document.getElementById("runs-table"), body = table.tBodies[0];
  const filters = document.getElementById("runs-filters"), rows = [...body.rows];
  const texts = new Map(rows.map(row => [row, `${row.textContent} ${Object.values(row.dataset).join(" ")}`.toLowerCase()]));

  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  function sort(head, column) {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    head.parentNode.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === "–" || y === "–") return (x === "–") - (y === "–");  // unknown stays last
      return sign * (head.classList.contains("n") ? x - y : x.localeCompare(y));
    };
    body.append(...rows.sort(order));
  }

  function filter() {
    const {words, ...selects} = Object.fromEntries(new FormData(filters));
    const wanted = words.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const has = wanted.every(word => texts.get(row).includes(word));
      row.hidden = !(has && Object.entries(selects).every(([name, value]) => !value || row.dataset[name] === value));
      shown += !row.hidden;
    }
    document.getElementById("runs-shown").textContent = `${shown} of ${rows.length} rows`;
  }

  table.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(head, column));
  });
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", event => event.preventDefault());
  // Paper has everything: what was folded is folded again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach(part => part.open = true);
  });
  addEventListener("afterprint", () => opened.forEach(part => part.open = false));
  filters.hidden = false;
  filter();  // a browser may have kept what stood in the field
})();
