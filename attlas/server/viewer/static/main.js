// The page: the viewer in the whole window, over HTTP.

import { HttpModel } from "./host.js";
import viewer from "./viewer.js";

const el = document.getElementById("viewer");
el.dataset.host = "page";
viewer.render({ model: new HttpModel(el.dataset.ask), el });
