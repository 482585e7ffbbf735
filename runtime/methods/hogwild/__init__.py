from .method import Hogwild as Hogwild
