// Runs before the first paint, so that a chosen theme never flashes the other one.
(function () {
  let chosen = null;
  try { chosen = localStorage.getItem("crowdperf.theme"); } catch { /* storage is switched off: follow the system */ }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
