// What scrolls in itself can be scrolled by the keyboard too.
document.addEventListener("DOMContentLoaded", () => {
  for (const each of document.querySelectorAll("article pre, article .table-wrapper, .drawing")) {
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
  }
});
