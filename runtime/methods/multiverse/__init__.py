from .method import Multiverse as Multiverse
