"use strict";
(() => {
  const box = document.getElementById("search");
  if (!box) return;
  const rows = [...document.querySelectorAll("#package-list tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const status = document.getElementById("found");
  const number = new Intl.NumberFormat("en");
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row, at) => {
      const hit = words.every((word) => texts[at].includes(word));
      if (row.hidden === hit) row.hidden = !hit;
      if (hit) found += 1;
    });
    status.textContent = `${number.format(found)} of ${number.format(rows.length)} shown`;
  };
  document.getElementById("search-packages").hidden = false;
  box.addEventListener("input", search);
  search();
})();
