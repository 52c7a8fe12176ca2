const specs = JSON.parse(document.getElementById("specs").textContent);
for (const place of document.querySelectorAll("[data-chart]")) {
  window.vegaEmbed(place, specs[Number(place.dataset.chart)], { actions: false, renderer: "svg", ast: false });
}
