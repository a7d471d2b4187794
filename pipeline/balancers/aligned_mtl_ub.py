"""Aligned-MTL-UB (Senushkin et al. 2023, arXiv 2305.19000, section 3.4): on the gradients of the last shared
features."""

from pipeline.balancers import aligned_mtl

KNOWN_AS = ("amtlub",)          # in released codes


class Balancer(aligned_mtl.Balancer):
    needs = "features"
