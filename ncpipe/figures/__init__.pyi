from .drawing.output import caption as caption
from .drawing.output import draw as draw
from .drawing.output import save_figure as save_figure
