(function () {
  // A link to a run inside a closed list opens the list (older browsers do not do so by themselves).
  function reveal() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    var list = target ? target.closest("details") : null;
    if (list) { list.open = true; target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
  // Pointing at one method of a figure fades the others.
  document.querySelectorAll("svg .series").forEach(function (series) {
    var chart = series.closest("svg");
    series.addEventListener("pointerenter", function () { chart.classList.add("focused"); series.classList.add("on"); });
    series.addEventListener("pointerleave", function () { chart.classList.remove("focused"); series.classList.remove("on"); });
  });
})();
