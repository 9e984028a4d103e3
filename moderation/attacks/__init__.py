"""What an evader does to a listing and a person sees through; importing any module here registers every attack."""

from moderation.attacks import image, joint, text

__all__ = ["image", "joint", "text"]
