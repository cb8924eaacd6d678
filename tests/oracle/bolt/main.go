// Makes and opens databases with the library that etcd uses, and says what `etcdutl snapshot status` would. Questions
// and answers are lines of JSON.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand"
	"os"
	"os/exec"
	"time"

	"go.etcd.io/bbolt"
)

// A question: open the database at a path, or make one there with so many keys. Some of them are deleted again, so that
// there are free pages, of which a list is kept or not.
type question struct {
	Path     string `json:"path"`
	Make     int    `json:"make"`
	FreeList bool   `json:"free_list"`
}

type answer struct {
	Error    string `json:"error"`
	CRC      uint32 `json:"crc"`
	Revision uint64 `json:"revision"`
	Keys     uint64 `json:"keys"`
	Bytes    int64  `json:"bytes"`
}

func main() {
	if len(os.Args) == 2 {
		a, err := open(os.Args[1])
		if err != nil {
			a.Error = err.Error()
		}
		json.NewEncoder(os.Stdout).Encode(a)
		return
	}
	lines := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in := json.NewDecoder(lines); in.More(); {
		var q question
		if err := in.Decode(&q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		var a answer
		var err error
		if q.Make > 0 {
			err = create(q)
		} else {
			a, err = openApart(q.Path)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

// Opens a database in a process of its own: a damaged one makes the library panic, in a goroutine of its own too, read outside of its map, or
// go round in a circle. All of that means that it is refused.
func openApart(path string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Args[0], path).Output()
	if err != nil {
		return a, fmt.Errorf("it ended badly: %w", err)
	}
	return a, json.Unmarshal(out, &a)
}

func open(path string) (a answer, err error) {
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return a, err
	}
	defer db.Close()
	tx, err := db.Begin(false)
	if err != nil {
		return a, err
	}
	defer tx.Rollback()
	// Read to its end: the check runs beside us.
	for problem := range tx.Check() {
		if err == nil {
			err = problem
		}
	}
	if err != nil {
		return a, err
	}
	a.Bytes = tx.Size()
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	cursor := tx.Cursor()
	for name, _ := cursor.First(); name != nil; name, _ = cursor.Next() {
		bucket := tx.Bucket(name)
		if bucket == nil {
			return a, fmt.Errorf("%q is no bucket", name)
		}
		crc.Write(name)
		err := bucket.ForEach(func(key, value []byte) error {
			crc.Write(key)
			crc.Write(value)
			a.Keys++
			if string(name) == "key" {
				if len(key) < 17 {
					return fmt.Errorf("a key is no revision")
				}
				a.Revision = binary.BigEndian.Uint64(key)
			}
			return nil
		})
		if err != nil {
			return a, err
		}
	}
	a.CRC = crc.Sum32()
	return a, nil
}

func create(q question) error {
	db, err := bbolt.Open(q.Path, 0o600, &bbolt.Options{NoFreelistSync: !q.FreeList})
	if err != nil {
		return err
	}
	defer db.Close()
	random := rand.New(rand.NewSource(int64(q.Make)))
	key := func(revision int) []byte {
		key := binary.BigEndian.AppendUint64(nil, uint64(revision))
		return binary.BigEndian.AppendUint64(append(key, '_'), 0)
	}
	for first := 1; first <= q.Make; first += 500 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for _, name := range []string{"alarm", "cluster", "key", "lease", "members", "meta"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			bucket := tx.Bucket([]byte("key"))
			for revision := first; revision < first+500 && revision <= q.Make; revision++ {
				value := make([]byte, random.Intn(300))
				if random.Intn(100) == 0 {
					value = make([]byte, random.Intn(100000))
				}
				random.Read(value)
				if err := bucket.Put(key(revision), value); err != nil {
					return err
				}
			}
			for revision := max(first-400, 1); revision < first-200; revision++ {
				if err := bucket.Delete(key(revision)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("meta")).Put([]byte("consistent_index"), key(first)[:8])
		})
		if err != nil {
			return err
		}
	}
	return nil
}
