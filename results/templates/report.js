// Draws the page's pictures. Colours of text and lines come from the style sheet, so that they follow the theme.
"use strict";
{
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = Object.keys(figures).map((id) => document.getElementById(id));
  const draw = (plot, layout) =>
    Plotly.react(plot, figures[plot.id].data, { ...figures[plot.id].layout, dragmode: false, ...layout }, {
      displayModeBar: false,
      responsive: true,
    });
  plots.forEach((plot) => draw(plot, {}));

  // On paper: pictures as wide as the text, and every table open.
  const PAPER_WIDTH = 680;
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
    plots.forEach((plot) => draw(plot, { width: PAPER_WIDTH, autosize: false }));
  });
  addEventListener("afterprint", () => {
    opened.forEach((details) => { details.open = false; });
    plots.forEach((plot) => draw(plot, { autosize: true }));
  });
}
