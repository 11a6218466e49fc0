"""Writes ``meshes/``: one surface in every dialect of VTK, by VTK itself (9.7.2).

    python tests/golden/make_meshes.py     (needs vtk and numpy)

Six vertices of which the last is used by no face; two triangles, a square and a strip
of three triangles; and the point data ``surface`` and ``speed``, whose range VTK writes
into a METADATA block.
"""

from pathlib import Path

import vtk

FOLDER = Path(__file__).parent / "meshes"
POINTS = [
    (0, 0, 0),
    (1.5, 0, 0.25),
    (0, 2, 0),
    (1.5, 2, -0.125),
    (0.5, 1, 3),
    (9, 9, 9),
]


def surface() -> vtk.vtkPolyData:
    """The surface."""
    points, data = vtk.vtkPoints(), vtk.vtkPolyData()
    for point in POINTS:
        points.InsertNextPoint(point)
    data.SetPoints(points)
    polygons, strips = vtk.vtkCellArray(), vtk.vtkCellArray()
    for cells, corners in (
        (polygons, (0, 1, 4)),
        (polygons, (0, 2, 3, 1)),
        (polygons, (1, 3, 4)),
        (strips, (2, 4, 3, 1, 0)),
    ):
        cells.InsertNextCell(len(corners))
        for corner in corners:
            cells.InsertCellPoint(corner)
    data.SetPolys(polygons)
    data.SetStrips(strips)
    codes, speed = vtk.vtkIntArray(), vtk.vtkFloatArray()
    codes.SetName("surface")
    speed.SetName("speed")
    speed.SetNumberOfComponents(3)
    for i in range(len(POINTS)):
        codes.InsertNextValue(i % 2)
        speed.InsertNextTuple3(i, 0, 1)
    speed.GetRange(-1)
    data.GetPointData().SetScalars(codes)
    data.GetPointData().AddArray(speed)
    return data


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    data = surface()
    legacy = vtk.vtkPolyDataWriter()
    legacy.SetInputData(data)
    for version, number in (("4.2", 42), ("5.1", 51)):
        for kind in ("ascii", "binary"):
            legacy.SetFileVersion(number)
            legacy.SetFileType(vtk.VTK_ASCII if kind == "ascii" else vtk.VTK_BINARY)
            legacy.SetFileName(str(FOLDER / f"{kind}_{version}.vtk"))
            legacy.Write()
    modern = vtk.vtkXMLPolyDataWriter()
    modern.SetInputData(data)
    for name, mode, packed in (
        ("ascii", modern.Ascii, False),
        ("raw", modern.Binary, False),
        ("zlib", modern.Binary, True),
        ("appended", modern.Appended, False),
    ):
        modern.SetDataMode(mode)
        modern.SetCompressorTypeToZLib() if packed else modern.SetCompressorTypeToNone()
        modern.SetHeaderTypeToUInt64() if packed else modern.SetHeaderTypeToUInt32()
        modern.EncodeAppendedDataOff()
        modern.SetFileName(str(FOLDER / f"{name}.vtp"))
        modern.Write()
    for kind in ("Ascii", "Binary"):
        for name, writer in (("ply", vtk.vtkPLYWriter()), ("stl", vtk.vtkSTLWriter())):
            triangles = vtk.vtkTriangleFilter()
            triangles.SetInputData(data)
            writer.SetInputConnection(triangles.GetOutputPort())
            writer.SetFileType(vtk.VTK_ASCII if kind == "Ascii" else vtk.VTK_BINARY)
            writer.SetFileName(str(FOLDER / f"{kind.lower()}.{name}"))
            writer.Write()


if __name__ == "__main__":
    main()
