"""`meshray token`, `join` and `key`, as far as files go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshray import meshkey
from meshray.cli import keys
from meshray.cli.commands import meshray
from meshray.config import DEFAULT
from meshray.meshkey import MeshKey
from meshray.seeds import Seed, last_peers, remember_peers
from meshray.tokens import Token, read_token, write_token
from meshray.transport import interfaces

KEY = MeshKey(bytes(range(32)))
TOKEN = Token(mesh=KEY.founded_mesh(), key=KEY, seeds=[Seed("10.0.0.1", 7637)])
LINE = write_token(TOKEN)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MESHRAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*words: str, given: str = "", code: int = 0) -> Result:
    result = CliRunner().invoke(meshray, list(words), input=given)
    assert result.exit_code == code, result.output
    assert LINE[10:40] not in result.stderr
    return result


class TestToken:
    def test_only_the_token_goes_to_standard_output(self) -> None:
        meshkey.make(KEY)
        result = run("token", "--seeds", "10.0.0.1:7637")
        assert result.stdout == LINE + "\n"
        assert "runs code on every member" in result.stderr

    def test_its_seeds_are_our_addresses_and_the_last_peers(self) -> None:
        meshkey.make(KEY)
        run("join", given=LINE)
        found = read_token(run("token").stdout)
        assert found.key == KEY
        assert Seed("10.0.0.1", 7637) in found.seeds
        assert len(found.seeds) <= DEFAULT.token_seeds_max
        assert all(not seed.host.startswith("127.") for seed in found.seeds)

    def test_they_are_a_few_and_none_is_an_old_port_of_this_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        meshkey.make(KEY)
        mesh = KEY.founded_mesh()
        own = [f"10.0.0.{number}" for number in range(1, 9)]
        monkeypatch.setattr(interfaces, "dialled", lambda _: own[:2])
        remember_peers(mesh, [Seed("10.0.0.1", 9999), *(Seed(f"10.1.0.{number}", 7637) for number in range(9))])
        found = read_token(run("token").stdout).seeds
        assert found == [Seed(host, 7637) for host in (*own[:2], "10.1.0.0", "10.1.0.1")]
        monkeypatch.setattr(interfaces, "dialled", lambda _: own)
        found = read_token(run("token").stdout).seeds
        assert found == [Seed(host, 7637) for host in (*own[:4], "10.1.0.0", "10.1.0.1")]
        assert len(found) == DEFAULT.token_seeds_max

    def test_without_a_key(self) -> None:
        for words in (("token",), ("key", "show")):
            told = run(*words, code=1).stderr
            assert "there is no mesh key on this host" in told
            assert "`meshray start`" in told

    def test_a_file_that_it_goes_to_is_its_owners_alone(self, tmp_path: Path) -> None:
        meshkey.make(KEY)
        file = tmp_path / "token"
        words = f"umask 022; {sys.executable} -m meshray.cli token --seeds 10.0.0.1 > {file}"
        done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True, env=os.environ)
        assert file.stat().st_mode & 0o777 == 0o600
        assert "mode 0644" in done.stderr
        assert read_token(file.read_text()).key == KEY

    def test_a_wrong_seed_is_named(self) -> None:
        meshkey.make(KEY)
        assert "'desk:x'" in run("token", "--seeds", "desk:x", code=1).stderr


class TestJoin:
    def test_from_standard_input(self, home: Path) -> None:
        told = run("join", given=LINE + "\n").stdout
        assert KEY.id.hex() in told
        assert "10.0.0.1:7637" in told
        assert meshkey.load().current == KEY
        assert last_peers(TOKEN.mesh) == TOKEN.seeds
        assert "already" in run("join", given=LINE).stdout

    def test_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(LINE)
        file.chmod(0o600)
        assert not run("join", "--file", str(file)).stderr
        assert meshkey.load().current == KEY
        file.chmod(0o644)
        assert "mode 0644" in run("join", "--file", str(file)).stderr
        assert "No such file" in run("join", "--file", str(tmp_path / "none"), code=1).stderr

    def test_a_list_of_members_that_cannot_be_written_is_no_reason_to_fail(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        (home / "peers.json").mkdir()
        assert "cannot be written down" in run("join", given=LINE).stderr
        assert meshkey.load().current == KEY

    def test_never_from_the_command_line(self, home: Path) -> None:
        told = run("join", LINE, code=2).stderr
        assert "not given on the command line" in told
        assert "no longer secret" in told
        assert not home.exists()

    def test_another_key_only_when_told(self) -> None:
        mine = MeshKey.generate()
        meshkey.make(mine)
        assert "--replace" in run("join", given=LINE, code=1).stderr
        assert meshkey.load().current == mine
        run("join", "--replace", given=LINE)
        assert meshkey.load().current == KEY

    def test_another_key_of_the_same_mesh_is_no_other_mesh(self) -> None:
        meshkey.join(TOKEN.mesh, MeshKey.generate())
        told = run("join", given=LINE, code=1).stderr
        assert "another key of this very mesh" in told
        assert "--replace" in told
        assert "lost" not in told

    @pytest.mark.parametrize("given", ["", "hello", LINE[:-1], LINE + "x", "\xff" * 100, "x" * 10**6])
    def test_what_is_no_token_changes_nothing(self, home: Path, given: str) -> None:
        assert "Error: " in run("join", given=given, code=1).stderr
        assert not home.exists() or not list(home.iterdir())

    def test_between_two_machines_by_a_pipe(self, home: Path, tmp_path: Path) -> None:
        meshkey.make(KEY)
        words = f"{sys.executable} -m meshray.cli"
        there = tmp_path / "there"
        done = subprocess.run(
            ["sh", "-c", f"{words} token --seeds 10.0.0.1:7637 | MESHRAY_HOME={there} {words} join"],
            capture_output=True, text=True, check=True, env=os.environ,
        )  # fmt: skip
        assert KEY.id.hex() in done.stdout
        assert LINE not in done.stdout + done.stderr
        assert (there / "mesh.key").read_bytes() == KEY.secret


class TestKey:
    def test_a_rotation_by_hand_on_two_members(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        for folder in (home, other):
            monkeypatch.setenv("MESHRAY_HOME", str(folder))
            run("join", given=LINE)
        monkeypatch.setenv("MESHRAY_HOME", str(home))
        run("key", "stage", "--here")
        line = run("token", "--next").stdout
        monkeypatch.setenv("MESHRAY_HOME", str(other))
        assert "staged now" in run("key", "stage", "--file", "-", given=line).stdout
        assert "here already" in run("key", "stage", "--file", "-", given=line).stdout
        run("key", "switch", "--here")
        switched = meshkey.load()
        monkeypatch.setenv("MESHRAY_HOME", str(home))
        assert meshkey.load().next == switched.current
        run("key", "switch", "--here")
        assert meshkey.load() == switched
        assert switched.mesh == TOKEN.mesh
        assert read_token(run("token").stdout).mesh == TOKEN.mesh  # a third machine joins the same mesh

    def test_what_needs_the_mesh_needs_a_peer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(tmp_path / "run"))
        meshkey.make(KEY)
        for words in (["stage"], ["stage", "--again"], ["switch"], ["switch", "--expel"], ["show", "--all"]):
            assert "no peer of this host is a member" in run("key", *words, code=1).stderr
        assert meshkey.load().next is None

    def test_what_members_say_moves_no_cursor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rude = {
            "name": "a\x1b[2J", "home": "00" * 8, "answered": True, "current": "", "next": "", "trouble": "no\r\nAll"
        }  # fmt: skip
        plain = rude | {"name": "longer", "trouble": "", "home": "12" * 8}
        told = {"key_id": "ab", "mesh_id": "cd", "members": [rude, plain]}
        monkeypatch.setattr(keys, "_ask", lambda what, argument: told)
        lines = run("key", "stage", code=1).stdout.splitlines()
        assert "  a?[2J   00000000  lacks it: no??All" in lines
        assert "  longer  12121212  lacks it" in lines

    def test_whoever_is_away_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        member = {"name": "b", "home": "00" * 8, "answered": True, "current": "ab", "next": "", "trouble": ""}
        told = {"key_id": "ab", "current": "ab", "mesh_id": "cd", "done": True, "members": [member], "away": []}
        monkeypatch.setattr(keys, "_ask", lambda what, argument: told)
        assert "All have it." in run("key", "stage").stdout
        told["away"] = [
            {"name": "g\x1b", "state": "left", "since_s": 200.0},
            {"name": "h", "state": "dead", "since_s": 2.0},
        ]
        staged, switched = run("key", "stage").stdout, run("key", "switch").stdout
        for lines in (staged, switched):
            assert "  g?  away: its peer was stopped, 3 min 20 s ago\n  h  away: its peer is dead, 2 s ago\n" in lines
            assert "meshray token | ssh OTHER meshray join --replace" in lines
        assert "All that are here have it." in staged
        assert "shut out" in staged
        assert "All that are here use it" in switched

    def test_a_mesh_without_a_peer(self) -> None:
        told = run("key", "new").stdout
        assert meshkey.load().mesh.hex() in told
        assert "already" in run("key", "new", code=1).stderr

    def test_a_next_key_is_given_up(self) -> None:
        meshkey.make(KEY)
        assert "No next key" in run("key", "unstage").stdout
        run("key", "stage", "--here")
        staged = meshkey.load().next
        assert staged is not None
        assert f"Key {staged.id.hex()} is forgotten here" in run("key", "unstage").stdout
        assert meshkey.load() == meshkey.MeshKeys(KEY.founded_mesh(), KEY)

    def test_out_of_turn(self) -> None:
        assert "no mesh key" in run("key", "stage", "--here", code=1).stderr
        meshkey.make(KEY)
        assert "no next key" in run("key", "switch", "--here", code=1).stderr
        assert "no next key" in run("token", "--next", code=1).stderr
        assert "exclude one another" in run("key", "stage", "--here", "--file", "-", code=2).stderr
        assert "exclude one another" in run("key", "stage", "--here", "--again", code=2).stderr
        assert "exclude each other" in run("key", "switch", "--here", "--expel", code=2).stderr
        stranger = MeshKey.generate()
        line = write_token(Token(mesh=stranger.founded_mesh(), key=stranger))
        assert stranger.founded_mesh().hex() in run("key", "stage", "--file", "-", given=line, code=1).stderr

    def test_shown_are_ids_alone(self) -> None:
        meshkey.make(KEY)
        told = run("key", "show").stdout
        assert KEY.id.hex() in told
        assert KEY.founded_mesh().hex() in told
        assert KEY.secret.hex() not in told
