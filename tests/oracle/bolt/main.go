// Opens an etcd snapshot as etcd would, with the library that etcd uses, and says what is in it.
//
//	go run . db.snapshot
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"

	"go.etcd.io/bbolt"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: bolt FILE")
	}
	snapshot, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	if len(snapshot)%512 != sha256.Size {
		return fmt.Errorf("%d bytes: there is no hash at the end", len(snapshot))
	}
	body := snapshot[:len(snapshot)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], snapshot[len(body):]) {
		return fmt.Errorf("the hash at the end is of something else")
	}
	file, err := os.CreateTemp("", "ichor-bolt")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(body); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	// Writable: the library then also reads the list of free pages.
	db, err := bbolt.Open(file.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			fmt.Printf("%s %d\n", name, bucket.Stats().KeyN)
			return nil
		})
	})
}
