// Before the first paint: which view it will be, so that the search box is there at once and nothing jumps.

{
  const given = new URLSearchParams(location.search);
  const { classList, dataset } = document.documentElement;
  dataset.view = given.get("view") ?? "search";
  classList.toggle("home", dataset.view === "search" && !given.get("q"));
}
