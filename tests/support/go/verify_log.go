// Checks a log of ours with Go's own tools: the note with sumdb/note, root and proofs with sumdb/tlog.
//
// Input: JSON with key (vkey), checkpoint, entries (base64) and proofs. Output: size and root in base64.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type proof struct {
	Record bool // of an entry; otherwise of an earlier tree
	Size   int64
	Root   []byte // of the later tree
	Number int64  // index of the entry, or size of the earlier tree
	Hash   []byte // of the entry, or root of the earlier tree
	Path   [][]byte
}

type input struct {
	Key        string
	Checkpoint string
	Entries    [][]byte
	Proofs     []proof
}

func main() {
	var in input
	check(json.NewDecoder(os.Stdin).Decode(&in))
	verifier, err := note.NewVerifier(in.Key)
	check(err)
	opened, err := note.Open([]byte(in.Checkpoint), note.VerifierList(verifier))
	check(err)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, index := range indexes {
			found = append(found, stored[index])
		}
		return found, nil
	})
	for number, entry := range in.Entries {
		hashes, err := tlog.StoredHashes(int64(number), entry, reader)
		check(err)
		stored = append(stored, hashes...)
	}
	root, err := tlog.TreeHash(int64(len(in.Entries)), reader)
	check(err)
	if lines := strings.Split(opened.Text, "\n"); lines[1] != fmt.Sprint(len(in.Entries)) || lines[2] != root.String() {
		log.Fatal("the checkpoint is of another tree")
	}
	for _, one := range in.Proofs {
		var path []tlog.Hash
		for _, node := range one.Path {
			path = append(path, hash(node))
		}
		if one.Record {
			check(tlog.CheckRecord(path, one.Size, hash(one.Root), one.Number, hash(one.Hash)))
		} else {
			check(tlog.CheckTree(path, one.Size, hash(one.Root), one.Number, hash(one.Hash)))
		}
	}
	fmt.Println(len(in.Entries), root)
}

func hash(raw []byte) (h tlog.Hash) {
	copy(h[:], raw)
	return h
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
