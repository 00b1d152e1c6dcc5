"""Packages under way: carriers tell late and twice, so a status never goes back."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from services.tracking.views.model import Package, PackageStatus

_RANK: Mapping[PackageStatus, int] = {
    "CREATED": 0,
    "LABELLED": 1,
    "PRE_TRANSIT": 2,
    "DISPATCHED": 3,
    "PICKED_UP": 4,
    "IN_TRANSIT": 5,
    "OUT_FOR_DELIVERY": 6,
    "DELIVERED": 7,
    "LOST": 7,
    "RETURN_TO_SENDER": 7,
}


def advanced(
    packages: tuple[Package, ...],
    shipment_id: str,
    ids: Iterable[str],
    status: PackageStatus,
    at: datetime,
    **change: str,
) -> tuple[Package, ...]:
    known = {package.package_id: package for package in packages}
    for package_id in ids:
        package = known.get(package_id) or Package(package_id=package_id, shipment_id=shipment_id)
        known[package_id] = _forward(package.model_copy(update=change), status, at)
    return tuple(known[package_id] for package_id in sorted(known))


def _forward(package: Package, status: PackageStatus, at: datetime) -> Package:
    if _RANK[status] < _RANK[package.status]:
        return package
    return package.model_copy(update={"status": status, "status_at": at})


def on_the_way(packages: tuple[Package, ...], shipment_id: str) -> list[str]:
    """The ids of a shipment's packages that have not ended yet, delivered, lost or returned."""
    own = [package for package in packages if package.shipment_id == shipment_id]
    return [package.package_id for package in own if _RANK[package.status] < _RANK["DELIVERED"]]
